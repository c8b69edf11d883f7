import json
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages import align
from stages.align import align_images, detector, run
from stages.align.warp import centre_crop, similarity, warp
from stages.params import Align, Params
from stages.store import Shard, StoreError, encode, write_shard

PARAMS = Params(n_ids=3, images_per_id=3, align=Align(ids_per_shard=2, batch_size=2, device="cpu"))
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
    columns = {"identity": identity, "chosen": np.isin(identity, chosen)}
    write_shard(root / "data/filter.h5", columns, fingerprint="")


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


def test_align_images_warps_the_largest_face(portraits, faceless, photograph):
    mtcnn = detector(PARAMS.align)
    aligned = align_images([portraits[0], faceless, photograph], mtcnn)
    assert aligned.found.tolist() == [True, False, True]
    assert np.array_equal(aligned.images[1], centre_crop(faceless))
    assert aligned.scores[1] == 0
    assert np.isnan(aligned.landmarks[1]).all()
    points = mtcnn.detect([photograph])[0].landmarks[:1]
    assert np.array_equal(aligned.landmarks[2], points[0])
    matrix = similarity(points)[0]
    assert np.array_equal(aligned.images[2], warp(photograph, matrix))
    again = mtcnn.detect([aligned.images[2]])[0].landmarks[0]
    np.testing.assert_allclose(again, points[0] @ matrix[:, :2].T + matrix[:, 2], atol=3)


def test_shards_hold_the_first_samples_in_the_order_of_filter(root, portraits):
    run(PARAMS, root)
    assert list(shards(root)) == ["00000.h5", "00001.h5"]
    assert rows(root) == [(5, 0), (5, 1), (5, 2), (3, 0), (3, 1), (3, 2), (4, 0)]
    with Shard(root / "data/align/00000.h5") as shard:
        expected = align_images([portraits[(i + k) % 6] for i in (5, 3) for k in range(3)], detector(PARAMS.align))
        assert np.array_equal(np.stack([shard.image(i) for i in range(6)]), expected.images)
        assert np.array_equal(shard["landmarks"], expected.landmarks)
        assert np.array_equal(shard["score"], expected.scores)
        assert shard["found"].all()
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
    assert rows(root)[-2:] == [(4, 0), (4, 1)]
    with Shard(root / "data/align/00001.h5") as shard:
        assert shard["found"].tolist() == [True, False]
        assert np.array_equal(shard.image(1), centre_crop(faceless))
    assert (metrics(root)["missing"], metrics(root)["written"]) == (1, 8)


def test_an_identity_without_a_face_is_counted(root, faceless, portraits):
    fill(root, {f"{i}/0.png": encode(faceless if i == 4 else portraits[i % 6]) for i in (3, 4, 5, 6)})
    run(PARAMS, root)
    assert metrics(root)["identities_without_images"] == 1
    assert rows(root) == [(5, 0), (3, 0)]


def test_batches_do_not_change_the_bytes(root):
    run(PARAMS, root)
    small = shards(root)
    for path in (root / "data/align").iterdir():
        path.unlink()
    run(replace(PARAMS, align=replace(PARAMS.align, batch_size=64)), root)
    assert shards(root) == small


def test_finished_shards_are_kept_and_stale_ones_go(root, monkeypatch):
    run(PARAMS, root)
    before, stamp = shards(root), (root / "data/align/00000.h5").stat().st_mtime_ns
    (root / "data/align/00007.h5").write_bytes(b"of a larger run")
    (root / "data/align/.00001.h5.abc.partial").write_bytes(b"of a killed run")
    (root / "data/align/00001.h5").write_bytes(before["00001.h5"][:900])
    run(PARAMS, root)
    assert shards(root) == before
    assert (root / "data/align/00000.h5").stat().st_mtime_ns == stamp
    monkeypatch.setattr(align, "align_images", None)  # would raise if called
    run(PARAMS, root)
    assert metrics(root)["missing"] == 1


def test_changed_images_knobs_and_choice_make_a_shard_stale(root, portraits):
    run(PARAMS, root)
    first = shards(root)
    choose(root, [5, 3, 6], 4)
    run(PARAMS, root)
    assert shards(root)["00000.h5"] == first["00000.h5"]
    assert rows(root)[-3:] == [(6, 0), (6, 1), (6, 2)]
    run(replace(PARAMS, align=replace(PARAMS.align, codec="jpeg")), root)
    with Shard(root / "data/align/00000.h5") as shard:
        assert shard.encoded(0)[:2] == b"\xff\xd8"
    run(replace(PARAMS, images_per_id=1), root)
    assert rows(root) == [(5, 0), (3, 0), (6, 0)]
    fill(root, {f"{i}/0.png": encode(portraits[0]) for i in (3, 4, 5, 6)})
    run(replace(PARAMS, images_per_id=1), root)
    with Shard(root / "data/align/00000.h5") as shard:
        assert shard.encoded(0) == shard.encoded(1)


def test_killed_and_run_again_ends_with_the_same_bytes(root):
    run(PARAMS, root)
    expected = shards(root)
    for path in (root / "data/align").iterdir():
        path.unlink()
    slow = (
        "import sys, time; from pathlib import Path\n"
        "from stages import align; from tests.align.test_align import PARAMS\n"
        "write = align.write_shard\n"
        "def once(path, *rest, **more):\n"
        "    write(path, *rest, **more); print('written', flush=True); time.sleep(60)\n"
        "align.write_shard = once; align.run(PARAMS, Path(sys.argv[1]))"
    )
    # another number of threads than this process has: it must not show
    process = subprocess.Popen([sys.executable, "-c", slow, str(root)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    time.sleep(0.1)
    process.kill()
    process.wait()
    assert list(shards(root)) == ["00000.h5"]
    run(PARAMS, root)
    assert shards(root) == expected


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
    with pytest.raises(StoreError, match="no identity 9"):
        run(PARAMS, root)
    assert not (root / "data/align").exists()


def test_without_filter(tmp_path):
    with pytest.raises(StoreError, match=r"filter\.h5"):
        run(PARAMS, tmp_path)


MADE = replace(PARAMS, method="arc2face")


def synthesize(root, portraits, faceless, first="a"):
    """Two shards, of identities 5 and 3, and of 4, whose sample 1 has no face; samples stand in no order."""
    for number, (identities, fingerprint) in enumerate((([5, 3], first), ([4], "b"))):
        rows = [(i, k) for i in identities for k in (2, 0, 1)]
        images = [faceless if row == (4, 1) else portraits[sum(row) % 6] for row in rows]
        identity, sample = np.array(rows).T
        columns = {"identity": identity.astype(np.int64), "sample": sample.astype(np.int32)}
        write_shard(
            root / f"data/synthesize/{number:05}.h5", columns, list(map(encode, images)), fingerprint=fingerprint
        )
    choose(root, ORDER, 6)


def test_another_methods_images_come_from_synthesize(tmp_path, portraits, faceless):
    synthesize(tmp_path, portraits, faceless)
    run(MADE, tmp_path)
    assert rows(tmp_path) == [(5, 0), (5, 1), (5, 2), (3, 0), (3, 1), (3, 2), (4, 0), (4, 2)]
    with Shard(tmp_path / "data/align/00001.h5") as shard:
        expected = align_images([portraits[4], portraits[0]], detector(PARAMS.align))
        assert np.array_equal(np.stack([shard.image(i) for i in range(2)]), expected.images)
    assert (metrics(tmp_path)["images"], metrics(tmp_path)["missing"]) == (9, 1)


def test_only_what_synthesize_made_anew_is_aligned_again(tmp_path, portraits, faceless):
    synthesize(tmp_path, portraits, faceless)
    run(MADE, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "data/align").iterdir()}
    synthesize(tmp_path, portraits, faceless, first="of another seed")
    run(MADE, tmp_path)
    assert [path.name for path in stamps if path.stat().st_mtime_ns != stamps[path]] == ["00000.h5"]


def test_an_identity_without_made_images_is_an_error(tmp_path, portraits, faceless):
    synthesize(tmp_path, portraits, faceless)
    choose(tmp_path, [5, 9], 3)
    with pytest.raises(StoreError, match="no images of identity 9; run `r2r synthesize`"):
        run(MADE, tmp_path)
    assert not (tmp_path / "data/align").exists()
