import os

import lmdb
import msgpack
import pytest

from stages.store import StoreError
from stages.train.readers.database import Database
from tests.train.readers.conftest import people, write_lmdb


@pytest.fixture
def path(tmp_path):
    return write_lmdb(tmp_path / "faces.lmdb", [(image, label) for label, image in people()])


def test_images_and_labels(path):
    found, wanted = Database(path), people()
    assert found.identity.tolist() == [label for label, _ in wanted]
    assert [found.encoded(row) for row in range(len(wanted))] == [image for _, image in wanted]
    assert found.where(2) == f"{path}, key 2"


def test_the_form_with_a_folder(tmp_path, path):
    folder = tmp_path / "folder.lmdb"
    folder.mkdir()
    (folder / "data.mdb").write_bytes(path.read_bytes())
    assert Database(folder).fingerprints == Database(path).fingerprints
    assert Database(folder).encoded(0) == people()[0][1]


def test_read_before_and_after_a_fork(path):
    found, wanted = Database(path), people()
    assert found.encoded(0) == wanted[0][1]
    process = os.fork()
    if not process:
        os._exit(found.encoded(1) != wanted[1][1])
    assert os.waitpid(process, 0)[1] == 0
    assert found.encoded(2) == wanted[2][1]


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
    with pytest.raises(StoreError, match=r"key 3: broken"):
        Database(path)


def test_the_fingerprint_follows_labels_and_sizes(tmp_path):
    pairs = [[(b"a", 1)], [(b"a", 2)], [(b"ab", 1)], [(b"a", 1), (b"a", 1)]]
    prints = [Database(write_lmdb(tmp_path / f"{n}.lmdb", pair)).fingerprints[0] for n, pair in enumerate(pairs)]
    assert len(set(prints)) == 4
