"""One set of people in every form is the same set, wherever it is read."""

from multiprocessing import get_context

import numpy as np
import pytest

from stages.images import read_faces
from stages.images.records import Records
from stages.store import StoreError, encode, write_shard
from tests.images.forms import PEOPLE, people, picture, write_faces, write_lmdb, write_tree, write_zip

KEYS = [(label, sample) for label in sorted(PEOPLE) for sample in range(PEOPLE[label])]


@pytest.fixture
def forms(tmp_path):
    """Paths of the set in every form; labels are ranks where folders are."""
    files = {f"{label:03d}/{sample}.png": encode(picture(label, sample)) for label, sample in KEYS}
    write_tree(tmp_path / "tree", files)
    write_tree(tmp_path / "deep/faces/images", files)
    write_zip(tmp_path / "faces.zip", files)
    write_zip(tmp_path / "alone/faces.zip", files)
    write_zip(tmp_path / "digiface/subjects_0-99_3_imgs.zip", {f"{i}/{k}.png": encode(picture(i, k)) for i, k in KEYS})
    write_faces(tmp_path / "rec")
    write_tree(tmp_path / "rec", {"property": b"3,112,112", "lfw.bin": b"a benchmark"})
    write_faces(tmp_path / "inside/faces_emore")
    write_lmdb(tmp_path / "faces.lmdb", [(image, label) for label, image in people()])
    columns = {
        "identity": np.repeat(list(PEOPLE), list(PEOPLE.values())),
        "sample": np.concatenate([range(count) for count in PEOPLE.values()]),
    }
    write_shard(tmp_path / "shards/0.h5", columns, [image for _, image in people()])
    names = "tree deep faces.zip alone digiface rec rec/train.rec inside faces.lmdb shards shards/0.h5"
    return [tmp_path / name for name in names.split()]


def test_every_form_is_the_same_set(forms):
    wanted = [encode(picture(*key)) for key in KEYS]
    for path in forms:
        faces = read_faces(path)
        assert np.unique(faces.identity, return_inverse=True)[1].tolist() == [0, 1, 1, 2, 2, 2], path
        assert [faces.encoded(row) for row in range(6)] == wanted, path
        np.testing.assert_array_equal(faces.image(4), picture(*KEYS[4]))


def test_every_form_goes_to_a_spawned_process(forms):
    sets = [read_faces(path) for path in forms]
    sets = [faces for faces in sets if faces.encoded(0)]  # opened here first
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(_first, sets) == [(encode(picture(*KEYS[0])), faces.digest()) for faces in sets]


def _first(faces):
    return faces.encoded(0), faces.digest()


def test_every_part_is_a_range_of_identities(forms, monkeypatch):
    monkeypatch.setattr("stages.images.faces.CHUNK", 2)
    for path in forms:
        faces = read_faces(path)
        parts = dict(faces.parts())
        assert np.concatenate(list(parts.values())).tolist() == list(range(6)), path
        assert list(parts) == (["subjects_0-99_3_imgs"] if "digiface" in str(path) else ["00000", "00001"])


def test_a_folder_of_one_identity_is_a_set(tmp_path):
    assert read_faces(write_tree(tmp_path, {"p0/0.png": b"0", "p0/1.png": b"1"})).identity.tolist() == [0, 0]


def test_a_tree_beside_the_zip_that_it_came_from(tmp_path):
    write_tree(tmp_path, {"p0/0.png": b"0", "p1/0.png": b"1", "all.zip": b"PK"})
    assert len(read_faces(tmp_path)) == 2


def test_a_folder_holds_one_rec(tmp_path):
    write_faces(tmp_path).rename(tmp_path / "file.rec")
    (tmp_path / "train.idx").rename(tmp_path / "file.idx")
    assert isinstance(read_faces(tmp_path), Records)
    (tmp_path / "other.rec").write_bytes(b"")
    with pytest.raises(StoreError, match=r"holds file\.rec, other\.rec; name one of them"):
        read_faces(tmp_path)


def test_nothing_there(tmp_path):
    (tmp_path / "align").mkdir()
    for name in ("none", "none.zip", "none.rec", "none.lmdb", "align"):
        with pytest.raises(StoreError, match=rf"{name}: no set of faces; run the stage that makes it \(`r2r fetch`"):
            read_faces(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.zip", "truncated or not a zip"),
        ("a.rec", r"a\.idx: not found; InsightFace's sets are a \.rec and its \.idx"),
        ("a.lmdb", "truncated or no LMDB"),
        ("a.h5", "not a readable shard"),
        ("a.txt", r"no set of faces in a known form; expected are a zip or folder of <identity>/<image>"),
    ],
)
def test_what_is_broken_or_unknown_says_what_was_expected(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"text" * 5000)
    with pytest.raises(StoreError, match=message):
        read_faces(tmp_path / name)
    with pytest.raises(StoreError, match=message):
        read_faces(tmp_path)


def test_zips_of_other_names(tmp_path):
    for name in ("a.zip", "b.zip"):
        write_zip(tmp_path / name, {"0/0.png": b"0"})
    with pytest.raises(StoreError, match=r"not named subjects_A-B_N_imgs\.zip"):
        read_faces(tmp_path)
