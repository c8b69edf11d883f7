import json
import multiprocessing
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.params import Arc2Face, Gap, Params, ParamsError, Synthesize
from stages.store import Shard, StoreError, decode, encode, write_shard
from stages.synthesize import create_transfer, run
from stages.transfer.arc2face.method import Arc2FaceTransfer
from tests.transfer.arc2face.tiny import LENGTH, WIDTH, pipeline, write_embeddings

ENCODER = Path(__file__).parents[2] / "stages/embed/encoder.onnx"


def synthesize(**changes):
    return Synthesize(**{"ids_per_shard": 2, "workers": 1, "judge": "second.onnx", "judge_ids": 3} | changes)


def make_params(**changes):
    block = {"weights": "generator", "steps": 2, "latents_per_id": 2, "images_per_latent": 2, "batch_size": 2}
    default = {
        "method": "arc2face",
        "n_ids": 5,
        "images_per_id": 3,
        "gap": Gap(weight=1.0),
        "synthesize": synthesize(),
        "arc2face": Arc2Face(**block, device="cpu"),
    }
    return Params(**default | changes)


def prepare(root):
    pipeline().save_pretrained(root / "generator")
    write_embeddings(root)
    delta = np.random.default_rng(0).normal(size=(LENGTH, WIDTH)).astype(np.float32)
    write_shard(root / "data/gap/delta.h5", {"delta": delta}, fingerprint="gap")
    shutil.copy(ENCODER, root / "second.onnx")
    colours = np.random.default_rng(1).integers(0, 256, (6, 4, 3), np.uint8)
    images = {f"{100 + i}/{k}.png": np.broadcast_to(colours[i, k], (16, 16, 3)) for i in range(6) for k in range(4)}
    for path, members in (
        ("source/subjects_100-105_4_imgs.zip", images),
        ("target/target.zip", {name.replace("/", ""): 255 - image for name, image in images.items()}),
    ):
        (root / "data" / path).parent.mkdir(parents=True)
        with zipfile.ZipFile(root / "data" / path, "w") as file:
            for name, image in members.items():
                file.writestr(name, encode(np.ascontiguousarray(image)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    prepare(root)
    run(make_params(), root)
    return root


@pytest.fixture
def root(tmp_path):
    prepare(tmp_path)
    return tmp_path


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
    return {path.name: path.read_bytes() for path in (root / "data/synthesize").glob("*.h5")}


def test_shards_hold_the_chosen_identities_in_the_filters_order(made):
    with Shard(made / "data/filter.h5") as shard:
        chosen = shard["identity"][shard["chosen"]].tolist()
    found = []
    for path in sorted((made / "data/synthesize").glob("*.h5")):
        with Shard(path) as shard:
            assert shard.names == ["identity", "sample", "seed", "t"]
            assert shard["sample"].tolist() == [0, 1, 2] * (len(shard) // 3)
            found.append(shard["identity"][::3].tolist())
    assert found == [chosen[:2], chosen[2:4], chosen[4:]]


def test_images_are_the_methods(made):
    transfer = Arc2FaceTransfer(make_params(), made)
    rows = content(made)
    for identity in (101, 104):
        portraits = transfer.portraits(identity)
        for sample in range(3):
            t, seed, image = rows[identity, sample]
            np.testing.assert_array_equal(decode(image), portraits.images[sample])
            assert (t, seed) == (portraits.t[sample], portraits.seed[sample])


def test_images_differ(made):
    assert len({image for _, _, image in content(made).values()}) == 15
    assert len({seed for _, seed, _ in content(made).values()}) == 15


@pytest.mark.parametrize("ids_per_shard", [1, 3, 100])
def test_shard_size_changes_no_bit(made, root, ids_per_shard):
    run(make_params(synthesize=synthesize(ids_per_shard=ids_per_shard)), root)
    assert content(root) == content(made)


def test_a_killed_run_goes_on_to_the_same_bits(made, root, monkeypatch):
    portraits = Arc2FaceTransfer.portraits

    def killed(self, identity):
        if identity == 102:  # the last of the second shard
            raise KeyboardInterrupt
        return portraits(self, identity)

    monkeypatch.setattr(Arc2FaceTransfer, "portraits", killed)
    with pytest.raises(KeyboardInterrupt):
        run(make_params(), root)
    assert list(bytes_of(root)) == ["00000.h5"]
    assert not (root / "metrics/synthesize.json").exists()

    again = []
    monkeypatch.setattr(
        Arc2FaceTransfer, "portraits", lambda self, identity: again.append(identity) or portraits(self, identity)
    )
    run(make_params(), root)
    assert bytes_of(root) == bytes_of(made)
    assert len(again) == 3


def test_only_what_changed_is_made_again(root, monkeypatch):
    run(make_params(n_ids=5), root)
    before = bytes_of(root)
    portraits, again = Arc2FaceTransfer.portraits, []
    monkeypatch.setattr(
        Arc2FaceTransfer, "portraits", lambda self, identity: again.append(identity) or portraits(self, identity)
    )
    with Shard(root / "data/filter.h5") as shard:
        columns = {name: shard[name] for name in shard.names}
    columns["chosen"] = np.arange(6) < 4  # a smaller n_ids: the last shard is stale
    write_shard(root / "data/filter.h5", columns, fingerprint="fewer")
    run(make_params(), root)
    assert again == []
    assert bytes_of(root) == {name: before[name] for name in ("00000.h5", "00001.h5")}
    run(make_params(seed=1), root)
    assert len(again) == 4
    assert json.loads((root / "metrics/synthesize.json").read_text())["identities"] == 4


def test_a_damaged_shard_is_made_again(made, root):
    run(make_params(), root)
    path = root / "data/synthesize/00001.h5"
    path.write_bytes(path.read_bytes()[:1000])
    (root / "data/synthesize/.00002.h5.x.partial").touch()
    run(make_params(), root)
    assert bytes_of(root) == bytes_of(made)
    assert len(list((root / "data/synthesize").iterdir())) == 3


@pytest.mark.slow
def test_processes_change_no_bit(made, root):
    run(make_params(synthesize=synthesize(ids_per_shard=3, workers=2)), root)
    assert content(root) == content(made)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("codec", "magic"), [("jpeg", b"\xff\xd8"), ("webp", b"RIFF"), ("png", b"\x89PNG")])
def test_codecs(root, codec, magic):
    run(make_params(synthesize=synthesize(codec=codec, quality=80)), root)
    assert all(image.startswith(magic) for _, _, image in content(root).values())


def test_metrics(made):
    metrics = json.loads((made / "metrics/synthesize.json").read_text())
    rows = content(made).values()
    assert (metrics["identities"], metrics["images"]) == (5, 15)
    assert metrics["t"] == pytest.approx(np.mean([t for t, _, _ in rows]), abs=1e-4)
    assert (metrics["judged_identities"], metrics["judged_images"]) == (3, 9)
    assert -1 <= metrics["identity_consistency"] <= 1


def test_the_sheet_shows_the_source_beside_what_was_made(made):
    with Image.open(made / "plots/synthesize/sheet.png") as picture:
        sheet = np.asarray(picture)
    with Shard(made / "data/filter.h5") as shard:
        first = int(shard["identity"][0])
    source = zipfile.ZipFile(made / "data/source/subjects_100-105_4_imgs.zip").read(f"{first}/0.png")
    np.testing.assert_array_equal(sheet[48, 48], decode(source)[8, 8])
    assert len(sheet) > 5 * 96


def test_what_is_missing_is_named_before_anything_is_written(root):
    for name, message in (
        ("data/gap/delta.h5", r"delta\.h5"),
        ("data/filter.h5", r"filter\.h5"),
        ("generator/vae", "vae"),
        ("second.onnx", r"synthesize\.judge"),
    ):
        (root / name).rename(root / "away")
        with pytest.raises(StoreError, match=message):
            run(make_params(), root)
        (root / "away").rename(root / name)
    assert not (root / "data/synthesize").exists()


def test_without_the_gap_no_gap_is_read(root):
    (root / "data/gap/delta.h5").unlink()
    run(make_params(gap=Gap(weight=0.0)), root)
    assert len(content(root)) == 15


def test_a_filter_that_chose_none_is_an_error(root):
    columns = {"identity": np.arange(3), "chosen": np.zeros(3, bool)}
    write_shard(root / "data/filter.h5", columns, fingerprint="none")
    with pytest.raises(StoreError, match="no identity is chosen"):
        run(make_params(), root)


def test_the_method_none_makes_no_images_and_says_so(tmp_path):
    stale = tmp_path / "data/synthesize/00000.h5"
    stale.parent.mkdir(parents=True)
    stale.touch()
    run(make_params(method="none"), tmp_path)
    assert not list((tmp_path / "data/synthesize").iterdir())
    assert not list((tmp_path / "plots/synthesize").iterdir())
    assert json.loads((tmp_path / "metrics/synthesize.json").read_text()) == {"images": 0}
    with pytest.raises(ParamsError, match="method is 'none'"):
        create_transfer(make_params(method="none"), tmp_path)
