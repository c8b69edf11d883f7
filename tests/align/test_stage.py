import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.align import stage
from stages.align.faces import align_images, detector
from stages.align.knobs import Align
from stages.align.stage import run
from stages.align.warp import centre_crop
from stages.filter import Filter
from stages.params import Params
from stages.store import Shard, StoreError, encode, entries, write_shard

PARAMS = Params(n_ids=3, images_per_id=3, align=Align(ids_per_shard=2, device="cpu"))
MADE = Params(method="arc2face", n_ids=3, images_per_id=3, align=PARAMS.align)
ORDER = [5, 3, 4]  # of filter


@pytest.fixture
def root(tmp_path, portraits, faceless):
    """Identities 3 to 6 of four samples; 4 has no face in sample 1 and no sample 2; 6 is not chosen."""
    images = {f"{i}/{k}.png": encode(portraits[(i + k) % 6]) for i in (3, 4, 5, 6) for k in range(4)}
    images["4/1.png"] = encode(faceless)
    del images["4/2.png"]
    fill(tmp_path, images)
    choose(tmp_path, ORDER, 6)
    return tmp_path


def fill(root, images):
    folder = root / "data/source"
    folder.mkdir(parents=True, exist_ok=True)
    for name, identities in (("subjects_3-4_4_imgs.zip", (3, 4)), ("subjects_5-6_4_imgs.zip", (5, 6))):
        with zipfile.ZipFile(folder / name, "w") as file:
            for member, content in images.items():
                if int(member.split("/")[0]) in identities:
                    file.writestr(member, content)


def choose(root, chosen, *others):
    identity = np.array([*chosen, *others], np.int64)
    write_shard(root / "data/filter.h5", {"identity": identity, "chosen": np.isin(identity, chosen)})


def shards(root):
    return {path.name: path.read_bytes() for path in sorted((root / "data/align").iterdir())}


def rows(root):
    found = []
    for path in sorted((root / "data/align").glob("*.h5")):
        with Shard(path) as shard:
            found += zip(shard["identity"].tolist(), shard["sample"].tolist(), strict=True)
    return found


def metrics(root):
    return json.loads((root / "metrics/align.json").read_text())


@pytest.fixture
def aligned(monkeypatch) -> list[int]:
    """The identities whose images were aligned."""
    original, identities = stage.aligner, []

    def aligner(*args):
        align = original(*args)
        return lambda identity: identities.append(identity) or align(identity)

    monkeypatch.setattr(stage, "aligner", aligner)
    return identities


def test_shards_hold_the_first_samples_by_ranges_of_identities(root, portraits):
    run(PARAMS, root)
    assert list(shards(root)) == ["00001.h5", "00002.h5"]  # 2 and 3; 4 and 5
    assert rows(root) == [(3, 0), (3, 1), (3, 2), (4, 0), (5, 0), (5, 1), (5, 2)]
    with Shard(root / "data/align/00001.h5") as shard:
        expected = align_images([portraits[(3 + k) % 6] for k in range(3)], detector(PARAMS.align))
        assert np.array_equal(np.stack([shard.image(i) for i in range(3)]), expected.images)
        assert np.array_equal(shard["landmarks"], expected.landmarks)
        assert np.array_equal(shard["score"], expected.scores)
        assert shard["found"].all()
        kinds = {name: shard[name].dtype.str for name in shard.names}
    assert kinds == {"identity": "<i8", "sample": "<i4", "found": "|b1", "score": "<f4", "landmarks": "<f4"}
    assert metrics(root) == {
        "identities": 3,
        "identities_without_images": 0,
        "images": 8,
        "images_not_in_source": 1,
        "found": 7,
        "missing": 1,
        "missing_percent": 12.5,
        "written": 7,
    }


def test_keep_writes_the_centre_crop(root, faceless):
    run(replace(PARAMS, align=replace(PARAMS.align, missing="keep")), root)
    assert rows(root)[3:5] == [(4, 0), (4, 1)]
    with Shard(root / "data/align/00002.h5") as shard:
        assert shard["found"].tolist() == [True, False, True, True, True]
        assert np.array_equal(shard.image(1), centre_crop(faceless))
    assert (metrics(root)["missing"], metrics(root)["written"]) == (1, 8)


def test_an_identity_without_a_face_is_counted(root, faceless, portraits):
    fill(root, {f"{i}/0.png": encode(faceless if i == 4 else portraits[i % 6]) for i in (3, 4, 5, 6)})
    run(PARAMS, root)
    assert metrics(root)["identities_without_images"] == 1
    assert rows(root) == [(3, 0), (5, 0)]


def test_only_what_changed_is_aligned_again(root, aligned, portraits, code):
    def again(params: Params = PARAMS) -> list[int]:
        aligned.clear()
        run(params, root)
        return sorted(aligned)

    assert again() == [3, 4, 5]
    first = shards(root)
    shutil.rmtree(root / "data/align")  # as DVC does before a stage
    assert again() == []
    assert shards(root) == first
    for name in ("align/stage", "align/faces", "align/mtcnn", "align/warp", "synthesize"):
        code.add(name, "# a remark\n")
    assert again(replace(PARAMS, filter=Filter(score="mean"))) == []  # in data/filter.h5 it counts, as far as it does
    choose(root, [6, 5, 3], 4)
    assert again() == [6]
    assert rows(root) == [(i, k) for i in (3, 5, 6) for k in range(3)]
    assert shards(root)["00001.h5"] == first["00001.h5"]
    assert again(replace(PARAMS, align=replace(PARAMS.align, ids_per_shard=100))) == []
    assert list(shards(root)) == ["00000.h5"]
    assert again(replace(PARAMS, images_per_id=1)) == [3, 5, 6]
    fill(root, {f"{i}/0.png": encode(portraits[0 if i == 3 else i % 6]) for i in (3, 4, 5, 6)})
    assert again(replace(PARAMS, images_per_id=1)) == [3]
    assert again(replace(PARAMS, align=replace(PARAMS.align, codec="jpeg"))) == [3, 5, 6]
    with Shard(root / "data/align/00001.h5") as shard:
        assert shard.encoded(0)[:2] == b"\xff\xd8"
    assert again(replace(PARAMS, align=replace(PARAMS.align, min_face=30))) == [3, 5, 6]
    code.add("align/warp", "X = 1\n")
    assert again() == [3, 5, 6]


KILLED = """
import sys
from pathlib import Path
from stages.align import stage
from tests.align.test_stage import PARAMS

write = stage.write_rows

def write_rows(path, results):
    if not list((Path(path).parent.parent).glob("*/entry.json")):
        return write(path, results)
    print("the second", flush=True)
    path.write_bytes(b"half a shard")
    sys.stdin.read()

stage.write_rows = write_rows
stage.run(PARAMS, Path(sys.argv[1]))
"""


def test_killed_while_it_writes_it_goes_on_to_the_same_bytes(root, aligned, monkeypatch, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"the second\n"
        process.kill()
    assert not (root / "data/align").exists()
    assert len(list(entries("align"))) == 1
    run(PARAMS, root)
    assert sorted(aligned) == [4, 5]
    after = shards(root)
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "another"))
    shutil.rmtree(root / "data/align")
    run(PARAMS, root)
    assert shards(root) == after


def test_a_broken_image_names_zip_and_member_and_leaves_nothing(root, portraits):
    images = {f"{i}/{k}.png": encode(portraits[i % 6]) for i in (3, 4, 5, 6) for k in range(3)}
    images["3/1.png"] = images["3/1.png"][:5000]
    fill(root, images)
    with pytest.raises(StoreError, match=r"subjects_3-4_4_imgs\.zip, member 3/1\.png: does not decode"):
        run(PARAMS, root)
    assert not (root / "data/align").exists()
    assert not (root / "metrics").exists()


def test_a_chosen_identity_that_is_not_in_the_source(root):
    choose(root, [5, 9], 3)
    with pytest.raises(StoreError, match="data/source: no images of identity 9"):
        run(PARAMS, root)
    assert not (root / "data/align").exists()


def test_without_filter(root):
    (root / "data/filter.h5").unlink()
    with pytest.raises(StoreError, match=r"filter\.h5"):
        run(PARAMS, root)


def synthesize(root, portraits, faceless, shift=0):
    """Two shards, of identities 3, and of 4 and 5; 4 has no face in sample 1; samples stand in no order."""
    for number, identities in enumerate(([3], [5, 4])):
        keys = [(i, k) for i in identities for k in (2, 0, 1)]
        images = [faceless if key == (4, 1) else portraits[(sum(key) + (1 - number) * shift) % 6] for key in keys]
        identity, sample = np.array(keys).T
        columns = {"identity": identity.astype(np.int64), "sample": sample.astype(np.int32)}
        write_shard(root / f"data/synthesize/{number:05}.h5", columns, list(map(encode, images)))
    choose(root, ORDER, 6)


def test_another_methods_images_come_from_synthesize(tmp_path, portraits, faceless, aligned):
    synthesize(tmp_path, portraits, faceless)
    run(MADE, tmp_path)
    assert rows(tmp_path) == [(3, 0), (3, 1), (3, 2), (4, 0), (4, 2), (5, 0), (5, 1), (5, 2)]
    with Shard(tmp_path / "data/align/00002.h5") as shard:
        expected = align_images([portraits[4], portraits[0]], detector(PARAMS.align))
        assert np.array_equal(np.stack([shard.image(i) for i in range(2)]), expected.images)
    assert (metrics(tmp_path)["images"], metrics(tmp_path)["missing"]) == (9, 1)
    aligned.clear()
    synthesize(tmp_path, portraits, faceless, shift=1)
    run(MADE, tmp_path)
    assert aligned == [3]  # only what was made anew
    choose(tmp_path, [5, 9], 3)
    with pytest.raises(StoreError, match="data/synthesize: no images of identity 9"):
        run(MADE, tmp_path)
