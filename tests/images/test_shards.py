import resource

import numpy as np
import pytest

from stages.images import Rows, Shards, read_rows, write_rows
from stages.store import StoreError, write_shard


def rows(identity, count):
    images = [b"%d-%d" % (identity, k) for k in range(count)]
    return Rows({"identity": np.full(count, identity), "sample": np.arange(count)}, images)


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "1.h5", iter([rows(3, 2), rows(1, 1)]))
    write_rows(tmp_path / "0.h5", iter([rows(2, 2)]))
    return tmp_path


def test_rows_of_all_shards_by_identity(folder):
    faces = Shards(folder)
    assert faces.identity.tolist() == [1, 2, 2, 3, 3]
    assert faces.sample.tolist() == [0, 0, 1, 0, 1]
    assert [faces.encoded(row) for row in range(5)] == [b"1-0", b"2-0", b"2-1", b"3-0", b"3-1"]
    assert faces.where(0) == f"{folder}/1.h5, row 2"
    assert len(Shards(folder, [folder / "0.h5"])) == 2


def test_how_they_are_cut_does_not_count(folder, tmp_path):
    write_rows(tmp_path / "whole/0.h5", iter([rows(1, 1), rows(2, 2), rows(3, 2)]))
    assert Shards(tmp_path / "whole").digest() == Shards(folder).digest()


def test_one_identity_comes_back(folder):
    found = read_rows(folder / "1.h5", 3)
    assert found.images == [b"3-0", b"3-1"]
    assert found.columns["sample"].tolist() == [0, 1]


def test_an_image_twice(folder):
    write_shard(folder / "2.h5", {"identity": np.array([2]), "sample": np.array([1])}, [b"x"])
    with pytest.raises(StoreError, match=r"identity 2, sample 1 is in .*0\.h5, row 1 and again in .*2\.h5, row 0"):
        Shards(folder)


def test_no_shards(tmp_path):
    with pytest.raises(StoreError, match="no shards; run the stage that makes them first"):
        Shards(tmp_path)


def test_more_shards_than_files_may_be_open(tmp_path):
    for number in range(100):
        write_rows(tmp_path / f"{number}.h5", iter([rows(number, 1)]))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        faces = Shards(tmp_path)
        assert [faces.encoded(row) for row in range(100)] == [b"%d-0" % number for number in range(100)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_an_image_is_read_where_it_lies_and_a_shard_that_went_is_named(folder):
    faces = Shards(folder)
    assert [(folder / "1.h5").read_bytes()[faces._begin[place] :][:3] for place in (2, 3, 4)] == [
        b"3-0",
        b"3-1",
        b"1-0",
    ]
    (folder / "1.h5").unlink()
    assert faces.encoded(1) == b"2-0"
    with pytest.raises(StoreError, match=r"1\.h5: .*run the stage again"):
        faces.encoded(0)
