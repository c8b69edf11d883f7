import os
from concurrent.futures import ThreadPoolExecutor

import lmdb
import msgpack
import pytest

from stages.images import read_faces
from stages.images.database import Database
from stages.store import StoreError
from tests.images.forms import people, write_lmdb


@pytest.fixture
def path(tmp_path):
    return write_lmdb(tmp_path / "faces.lmdb", [(image, label) for label, image in people()])


def wanted():
    return sorted((label, place, image) for place, (label, image) in enumerate(people()))


def content(faces):
    return list(zip(faces.identity.tolist(), faces.sample.tolist(), map(faces.encoded, range(len(faces))), strict=True))


def test_images_and_labels(path):
    faces = Database(path)
    assert content(faces) == content(Database(path)) == wanted()  # read, and remembered
    assert faces.where(0) == f"{path}, key 3"


@pytest.mark.parametrize("name", ["faces", "faces.bin", "folder/data.mdb", "folder/hsface.db", "folder.lmdb/data.mdb"])
def test_it_is_known_by_its_content(tmp_path, path, name):
    (tmp_path / "set" / name).parent.mkdir(parents=True)
    path.rename(tmp_path / "set" / name)
    if "/" in name:
        (tmp_path / "set" / name).with_name("lock.mdb").write_bytes(bytes(8192))
        (tmp_path / "set" / name).with_name("README").write_text("faces")
    for place in (tmp_path / "set", tmp_path / "set" / name):
        assert content(read_faces(place)) == wanted()


def test_two_databases_in_a_folder(tmp_path, path):
    (tmp_path / "other").write_bytes(path.read_bytes())
    with pytest.raises(StoreError, match=r"holds faces\.lmdb, other; name one of them"):
        read_faces(tmp_path)


def test_read_before_and_after_a_fork(path):
    faces, images = Database(path), wanted()
    assert faces.encoded(0) == images[0][2]
    process = os.fork()
    if not process:
        os._exit(faces.encoded(1) != images[1][2])
    assert os.waitpid(process, 0)[1] == 0
    assert faces.encoded(2) == images[2][2]


def test_read_in_threads(path):
    faces, again, images = Database(path), Database(path), [image for *_, image in wanted()]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda k: (faces, again)[k % 2].encoded(k % 6), range(600)))
    assert read == images * 100


@pytest.mark.parametrize(
    "pair", [(b"", 1), (b"a", -1), (b"a", 0.5), (b"a", True, 3), ("text", 1), [b"a"], b"a", {"image": b"a"}, None]
)
def test_other_layouts(tmp_path, pair):
    path = write_lmdb(tmp_path / "a.lmdb", [(b"image", 1), pair])
    with pytest.raises(StoreError, match=r"a\.lmdb, key 1: no pair of image and label"):
        Database(path)


def test_broken_databases(tmp_path, path):
    with pytest.raises(StoreError, match=r"b\.lmdb: truncated or no LMDB"):
        Database(tmp_path / "b.lmdb")
    (tmp_path / "c.lmdb").write_bytes(b"none" * 5000)
    with pytest.raises(StoreError, match=r"c\.lmdb: truncated or no LMDB"):
        Database(tmp_path / "c.lmdb")
    with lmdb.open(str(tmp_path / "d.lmdb"), subdir=False):
        pass
    with pytest.raises(StoreError, match=r"d\.lmdb: its __keys__ are no list"):
        Database(tmp_path / "d.lmdb")
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as database, database.begin(write=True) as transaction:
        transaction.put(b"3", msgpack.packb((b"image", 1))[:-2])
    os.utime(path, (0, 0))
    with pytest.raises(StoreError, match=r"key 3: broken"):
        Database(path)
