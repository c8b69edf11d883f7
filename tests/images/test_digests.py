import os
import zipfile
import zlib

import numpy as np
import pytest

from stages.images import Archive, digests, read_faces
from stages.images.digests import remembered
from stages.store import StoreError, write_shard
from tests.images.forms import packed, record, write_lmdb, write_rec, write_tree, write_zip

FORMS = {
    "folder": lambda path, images: write_tree(path, {f"{label}/{k}.bmp": image for label, k, image in images}),
    "zip": lambda path, images: write_zip(path, {f"{label}/{k}.bmp": image for label, k, image in images}),
    "digiface": lambda path, images: write_zip(
        path / "subjects_0-9_9_imgs.zip", {f"{label}/{k}.png": image for label, k, image in images}
    ),
    "rec": lambda path, images: write_rec(
        path, {number: record(packed(label, image)) for number, (label, _, image) in enumerate(images)}
    ),
    "lmdb": lambda path, images: write_lmdb(path, [(image, label) for label, _, image in images]),
    "shards": lambda path, images: write_shard(
        path / "0.h5",
        {"identity": np.array([i[0] for i in images]), "sample": np.array([i[1] for i in images])},
        [i[2] for i in images],
    ),
}
BEFORE = [(0, 0, b"aaaa"), (0, 1, b"bbbb"), (1, 0, b"cccc")]
AFTER = [(0, 0, b"aaaa"), (0, 1, b"BBBB"), (1, 0, b"cccc")]  # under equal names and of equal lengths


@pytest.mark.parametrize("form", FORMS)
def test_other_images_are_another_set(tmp_path, form):  # case 27
    found = []
    for number, images in enumerate((BEFORE, AFTER, BEFORE)):
        path = tmp_path / str(number)
        FORMS[form](path, images)
        faces = read_faces(path)
        assert faces.digest() == read_faces(path).digest()
        found.append((faces.digest(), faces.digest(faces.rows(0)), faces.digest(faces.rows(1))))
    assert found[0] == found[2]
    assert [a != b for a, b in zip(*found[:2], strict=True)] == [True, True, False]


@pytest.mark.parametrize("form", ["folder", "rec", "lmdb"])
def test_images_replaced_in_place_are_seen(tmp_path, form):
    path = tmp_path / "set"
    seen = []
    for images in (BEFORE, AFTER):
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                file.unlink()
        FORMS[form](path, images)
        for file in path.rglob("*") if path.is_dir() else [path]:
            os.utime(file, (1e9, 1e9))  # an unpacker sets the date of the original
        seen.append(read_faces(path).digest())
    assert seen[0] != seen[1]


def test_equal_content_is_equal_wherever_it_lies(tmp_path):
    for form in ("folder", "zip", "digiface", "shards"):
        FORMS[form](tmp_path / form, BEFORE)
    assert len({read_faces(tmp_path / form).digest() for form in ("folder", "zip", "digiface", "shards")}) == 1


@pytest.mark.parametrize("form", ["folder", "rec", "lmdb"])
def test_a_second_look_reads_nothing(tmp_path, form, monkeypatch):
    FORMS[form](tmp_path / "set", BEFORE)
    first = read_faces(tmp_path / "set").digest()
    monkeypatch.setattr(digests, "length_and_crc", None)
    for module in ("archive", "records", "database"):
        monkeypatch.setattr(f"stages.images.{module}.length_and_crc", None)
    assert read_faces(tmp_path / "set").digest() == first


def test_only_what_is_new_is_read(tmp_path, cache):
    read: list[int] = []

    def look(places):
        for place in places:
            read.append(place)
            yield place, 10 * place

    def values(*stamps):
        read.clear()
        return remembered(tmp_path, np.array(stamps, np.uint64), look).tolist()

    assert values(7, 5, 2**63) == [[0, 0], [1, 10], [2, 20]]
    assert values(5, 7, 2**63) == [[1, 10], [0, 0], [2, 20]]
    assert read == []
    assert values(5, 6, 0) == [[1, 10], [1, 10], [2, 20]]
    assert read == [1, 2]
    assert values(0) == [[0, 0]]  # a stamp of 0 is never known
    assert read == [0]
    next((cache / "digests").iterdir()).write_bytes(b"broken")
    assert values(5) == [[0, 0]]


def test_what_a_stopped_run_has_read_is_kept(tmp_path):
    def look(places, stop):
        for place in places:
            if place == stop:
                raise KeyboardInterrupt
            yield place, 1

    stamps = np.arange(1, 6, dtype=np.uint64)
    with pytest.raises(KeyboardInterrupt):
        remembered(tmp_path, stamps, lambda places: look(places, 3))
    assert remembered(tmp_path, stamps, lambda places: look(places, 0)).tolist() == [[place, 1] for place in range(5)]


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED", 60)
    path = write_tree(tmp_path / "set", {"a.png": b"aaaa"})
    first = Archive(path).digest()
    (path / "a.png").write_bytes(b"bbbb")
    os.utime(path / "a.png", ns=(0, 0))
    assert Archive(path).digest() != first
    assert len(np.load(next((cache / "digests").iterdir()))) == 0


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "file"))
    path = write_tree(tmp_path / "set", {"a.png": b"a"})
    with pytest.raises(StoreError, match="set R2R_CACHE to a folder of your own"):
        Archive(path).digest()


def test_a_zip_is_its_content_and_neither_its_comment_nor_its_packing(tmp_path):
    files = {"1/a.png": b"a" * 99, "2/b.png": b"b"}
    paths = [write_zip(tmp_path / f"{n}.zip", files, packing) for n, packing in enumerate((0, zipfile.ZIP_DEFLATED))]
    paths.append(write_zip(tmp_path / "reversed.zip", dict(reversed(files.items()))))
    for path in paths[:2]:
        with zipfile.ZipFile(path, "a") as file:
            file.comment = b"5e" * 32
    archives = [Archive(path) for path in paths]
    assert len({archive.digest() for archive in archives}) == 1
    assert len({archive._zip.digest for archive in archives}) == 1
    other = write_zip(tmp_path / "other.zip", {**files, "2/b.png": b"c"})
    with zipfile.ZipFile(other, "a") as file:
        file.comment = b"5e" * 32
    assert Archive(other).digest() != archives[0].digest()
    assert Archive(other)._zip.digest != archives[0]._zip.digest


def test_lengths_and_checksums_against_zlib(tmp_path):
    path = write_tree(tmp_path / "set", {"b.png": b"bb", "a.png": b"aaa"})
    assert Archive(path).contents.tolist() == [[3, zlib.crc32(b"aaa")], [2, zlib.crc32(b"bb")]]
