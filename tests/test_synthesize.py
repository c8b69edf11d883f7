import json
import multiprocessing
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stages import synthesize
from stages.filter import Filter
from stages.gap import Gap
from stages.params import Params
from stages.pictures import GAP, LINE, TILE
from stages.store import Shard, StoreError, decode, encode, entries, write_shard
from stages.synthesize import Synthesize, run
from stages.transfer import knobs_of
from stages.transfer.arc2face.knobs import Knobs
from stages.transfer.arc2face.method import Method
from tests.transfer.arc2face.tiny import LENGTH, WIDTH, pipeline, write_embeddings

CHOSEN = [101, 102, 103, 104, 105]  # cut by twos into 101 | 102, 103 | 104, 105
PARAMS = Params(
    method="arc2face",
    n_ids=5,
    images_per_id=3,
    synthesize=Synthesize(ids_per_shard=2, workers=1),
    transfer=Knobs(weights="generator", steps=2, latents_per_id=2, images_per_latent=2, batch_size=2, device="cpu"),
)


def with_knobs(**knobs) -> Params:
    return replace(PARAMS, synthesize=replace(PARAMS.synthesize, **knobs))


def choose(root, chosen, *others):
    identity = np.array([*chosen, *others], np.int64)
    write_shard(root / "data/filter.h5", {"identity": identity, "chosen": np.isin(identity, chosen)})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    pipeline().save_pretrained(root / "generator")
    write_embeddings(root)
    delta = np.random.default_rng(0).normal(size=(LENGTH, WIDTH)).astype(np.float32)
    write_shard(root / "data/gap/delta.h5", {"delta": delta})
    identity, sample = np.repeat(np.arange(100, 106), 4), np.tile(np.arange(4), 6)
    images = [encode(np.full((16, 16, 3), 10 * (i - 100) + k, np.uint8)) for i, k in zip(identity, sample, strict=True)]
    write_shard(root / "data/source/0.h5", {"identity": identity, "sample": sample}, images)
    choose(root, CHOSEN[::-1], 100)
    return root


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    root = shutil.copytree(inputs, tmp_path_factory.mktemp("made"), dirs_exist_ok=True)
    run(PARAMS, root)
    return root


@pytest.fixture
def root(inputs, tmp_path):
    return shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """The identities whose images were made."""
    portraits, identities = Method.portraits, []
    monkeypatch.setattr(
        Method, "portraits", lambda self, identity: identities.append(identity) or portraits(self, identity)
    )
    return identities


def content(root):
    """All rows of all shards: (identity, sample) -> (t, seed, encoded image)."""
    rows = {}
    for path in sorted((root / "data/synthesize").glob("*.h5")):
        with Shard(path) as shard:
            for row in range(len(shard)):
                key = int(shard["identity"][row]), int(shard["sample"][row])
                assert key not in rows
                rows[key] = float(shard["t"][row]), int(shard["seed"][row]), shard.encoded(row)
    return rows


def bytes_of(root):
    return {path.name: path.read_bytes() for path in sorted((root / "data/synthesize").glob("*.h5"))}


def test_shards_hold_the_chosen_identities_by_ranges(made):
    found = {}
    for path in sorted((made / "data/synthesize").iterdir()):
        with Shard(path) as shard:
            assert shard.names == ["identity", "sample", "seed", "t"]
            assert shard["sample"].tolist() == [0, 1, 2] * (len(shard) // 3)
            found[path.name] = shard["identity"][::3].tolist()
    assert found == {"00050.h5": [101], "00051.h5": [102, 103], "00052.h5": [104, 105]}


def test_images_are_the_methods(made):
    method, rows = Method(PARAMS, made), content(made)
    for identity in (101, 104):
        portraits = method.portraits(identity)
        for sample in range(3):
            t, seed, image = rows[identity, sample]
            np.testing.assert_array_equal(decode(image), portraits.images[sample])
            assert (t, seed) == (portraits.t[sample], portraits.seed[sample])


def test_images_differ(made):
    assert len({image for _, _, image in content(made).values()}) == 15
    assert len({seed for _, seed, _ in content(made).values()}) == 15


def test_which_identities_share_a_shard_changes_no_bit(made, root):
    run(with_knobs(ids_per_shard=100), root)
    assert list(bytes_of(root)) == ["00001.h5"]
    assert content(root) == content(made)


@pytest.mark.slow
def test_processes_change_no_bit(made, root):
    run(with_knobs(workers=2), root)
    assert bytes_of(root) == bytes_of(made)
    assert not multiprocessing.active_children()


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(made, root, drawn, monkeypatch):
    portraits = Method.portraits

    def stopped(self, identity):
        if identity == 103:  # the last of the second shard
            raise KeyboardInterrupt
        return portraits(self, identity)

    with monkeypatch.context() as patch:
        patch.setattr(Method, "portraits", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(PARAMS, root)
    assert len(list(entries("synthesize"))) == 1
    assert not (root / "metrics/synthesize.json").exists()
    drawn.clear()
    run(PARAMS, root)
    assert drawn == [102, 103, 104, 105]
    assert bytes_of(root) == bytes_of(made)


def test_only_what_changed_is_made_again(made, root, drawn, code):
    def again(params: Params = PARAMS) -> list[int]:
        drawn.clear()
        run(params, root)
        return sorted(drawn)

    assert again() == CHOSEN
    shutil.rmtree(root / "data/synthesize")  # as DVC does before a stage
    assert again() == []
    assert bytes_of(root) == bytes_of(made)
    assert again(with_knobs(ids_per_shard=3)) == []
    for name in ("synthesize", "align/stage", "transfer/arc2face/method", "store/codec"):
        code.add(name, "# a remark\n")
    code.add("align/stage", "X = 1\n")
    assert again(replace(PARAMS, n_ids=4, filter=Filter(score="mean"))) == []  # what filter wrote is what counts
    choose(root, [103, 101], 102)
    assert again() == []
    choose(root, [105, 100, 104, 101, 102, 103])  # a larger n_ids
    assert again() == [100]
    assert {key: row for key, row in content(root).items() if key[0] != 100} == content(made)
    choose(root, [104, 101, 105], 100)  # another filter.score
    assert again() == []
    assert {key[0] for key in content(root)} == {101, 104, 105}
    assert again(replace(PARAMS, seed=1)) == [101, 104, 105]
    assert again() == []  # and back
    assert json.loads((root / "metrics/synthesize.json").read_text())["identities"] == 3
    code.add("transfer/arc2face/method", "X = 1\n")
    assert again() == [101, 104, 105]


def test_a_damaged_shard_is_named_and_made_again(made, root, drawn, capsys):
    run(PARAMS, root)
    drawn.clear()
    path = root / "data/synthesize/00051.h5"
    with path.open("r+b") as file:  # through the link, into the cache
        file.seek(-64, 2)
        file.write(bytes(64))
    run(PARAMS, root)
    assert drawn == [102, 103]
    assert "content has changed" in capsys.readouterr().err
    assert bytes_of(root) == bytes_of(made)


def test_no_image_is_taken_out_of_a_damaged_shard(made, root, drawn):
    run(PARAMS, root)
    drawn.clear()
    path = root / "data/synthesize/00051.h5"
    with path.open("r+b") as file:
        file.seek(-64, 2)
        file.write(bytes(64))
    run(with_knobs(ids_per_shard=100), root)
    assert sorted(drawn) == [102, 103]
    assert content(root) == content(made)


def test_codec_and_quality_are_the_knobs(made, root):
    original = {key: decode(image) for key, (_, _, image) in content(made).items()}
    for codec, quality in (("jpeg", 95), ("jpeg", 20), ("webp", 20)):
        run(with_knobs(codec=codec, quality=quality), root)
        assert {key: encode(image, codec, quality) for key, image in original.items()} == {
            key: image for key, (_, _, image) in content(root).items()
        }


def test_the_quality_of_a_png_is_none(root, drawn):
    run(PARAMS, root)
    drawn.clear()
    run(with_knobs(quality=20), root)
    assert drawn == []


def test_metrics(made):
    metrics = json.loads((made / "metrics/synthesize.json").read_text())
    size = sum(path.stat().st_size for path in (made / "data/synthesize").iterdir())
    t = np.mean([t for t, _, _ in content(made).values()])
    assert metrics == {
        "identities": 5,
        "images": 15,
        "bytes_per_image": round(size / 15),
        "t": pytest.approx(t, abs=1e-4),
    }


def test_the_sheet_shows_the_source_beside_what_was_made(made):
    with Image.open(made / "plots/synthesize/sheet.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (5 * (LINE + TILE + 2 * GAP), 4 * (TILE + GAP), 3)
    assert (sheet[LINE : LINE + TILE, :TILE] == 50).all()  # of 105, the first in filter's order
    images = [decode(content(made)[105, k][2]) for k in range(3)]
    for k, image in enumerate(images):
        tile = sheet[LINE : LINE + TILE, (k + 1) * (TILE + GAP) :][:, :TILE]
        assert abs(tile.mean() - image.mean()) < 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("data/gap/delta.h5", r"delta\.h5"), ("data/filter.h5", r"filter\.h5"), ("generator/vae", "vae: not found")],
)
def test_what_is_missing_is_named_before_anything_is_written(root, name, message):
    (root / name).rename(root / "away")
    with pytest.raises(StoreError, match=message):
        run(PARAMS, root)
    assert not (root / "data/synthesize").exists()
    assert not (root / "plots").exists()


def test_without_the_gap_no_gap_is_read(root):
    (root / "data/gap/delta.h5").unlink()
    run(replace(PARAMS, gap=Gap(weight=0.0)), root)
    assert len(content(root)) == 15


def test_the_method_none_makes_no_images_and_says_so(tmp_path):
    run(Params(method="none"), tmp_path)
    for folder in ("data/synthesize", "plots/synthesize"):
        (only,) = (tmp_path / folder).iterdir()
        assert only.read_text() == "method none makes no images\n"
    assert json.loads((tmp_path / "metrics/synthesize.json").read_text()) == {"images": 0}


def test_a_return_from_none_takes_the_images_out_of_the_cache(root, drawn):
    run(PARAMS, root)
    before = bytes_of(root)
    run(Params(method="none"), root)
    assert bytes_of(root) == {}
    drawn.clear()
    run(PARAMS, root)
    assert (bytes_of(root), drawn) == (before, [])
    assert not (root / "data/synthesize/nothing.txt").exists()


@pytest.mark.parametrize(("method", "places"), [("arc2face", [0, 1]), ("vsait", [0, 1, 0, 1, 0, 1])])
def test_processes_share_the_gpus(monkeypatch, method, places):
    """A light network's processes are several a GPU, so that one computes while others decode and encode."""
    monkeypatch.setattr(synthesize, "pick_device", lambda *_: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(synthesize, "processes", lambda count, knob, places: (count, places))
    chosen = Params(method=method, transfer=knobs_of(method)())
    assert synthesize._executor(chosen) == (len(places), [f"cuda:{number}" for number in places])
