import errno
import hashlib
import zlib

import h5py
import numpy as np
import pytest

from stages.store import Shard, StoreError, encode, opened, write_shard


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (9 + i, 7, 3), dtype=np.uint8) for i in range(5)]


def test_a_shard_gives_back_what_was_written(tmp_path, images):
    path = tmp_path / "shard.h5"
    identity = np.array([3, 3, 1, 1, 2])
    encoded = [encode(image) for image in images]
    write_shard(path, {"identity": identity}, encoded)
    with Shard(path) as shard:
        assert len(shard) == 5
        assert shard.names == ["identity"]
        np.testing.assert_array_equal(shard["identity"], identity)
        np.testing.assert_array_equal(shard.checksums, [zlib.crc32(image) for image in encoded])
        for i, image in enumerate(images):
            np.testing.assert_array_equal(shard.image(i), image)


def test_bytes_depend_on_content_only(tmp_path, images):
    digests = set()
    for name in ("a.h5", "another-name.h5"):
        write_shard(tmp_path / name, {"x": np.arange(5.0)}, [encode(image) for image in images])
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_columns_of_different_lengths_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="different lengths"):
        write_shard(tmp_path / "shard.h5", {"x": np.zeros(1), "y": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_broken_shards_and_images_name_themselves(tmp_path):
    path = tmp_path / "shard.h5"
    path.write_bytes(b"not hdf5")
    with pytest.raises(StoreError, match=r"shard\.h5: not a readable shard"):
        Shard(path)
    write_shard(path, {"x": np.zeros(1)}, [b"no image"])
    with Shard(path) as shard:
        with pytest.raises(StoreError, match=r"shard\.h5, row 0"):
            shard.image(0)
        with pytest.raises(StoreError, match="no column 'y'"):
            shard["y"]


def test_too_many_open_files_are_not_the_shards_fault(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(StoreError, match="ulimit -n") as caught:
        Shard(tmp_path / "shard.h5")
    assert "delete" not in str(caught.value)


def test_a_thousand_shards_are_read_with_few_open(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = tmp_path / "0.h5"
    write_shard(path, {"x": np.arange(3)})
    for number in range(1, 200):
        (tmp_path / f"{number}.h5").hardlink_to(path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
    try:
        assert sum(int(opened(tmp_path / f"{number}.h5")["x"].sum()) for number in range(200)) == 600
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_shard_that_was_replaced_is_opened_anew(tmp_path):
    path = tmp_path / "0.h5"
    for number in (1, 2):
        write_shard(path, {"x": np.array([number])})
        assert opened(path)["x"].tolist() == [number]
        assert opened(path) is opened(path)
    path.unlink()
    with pytest.raises(StoreError, match=r"0\.h5"):
        opened(path)
