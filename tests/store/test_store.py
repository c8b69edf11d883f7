import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image

from stages.store import Shard, StoreError, decode, emptied, encode, fingerprint, is_current, replacing, write_shard


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (9 + i, 7, 3), dtype=np.uint8) for i in range(5)]


def test_a_shard_gives_back_what_was_written(tmp_path, images):
    path = tmp_path / "shard.h5"
    identity = np.array([3, 3, 1, 1, 2])
    write_shard(path, {"identity": identity}, [encode(image) for image in images], fingerprint="f")
    with Shard(path) as shard:
        assert len(shard) == 5
        assert shard.fingerprint == "f"
        np.testing.assert_array_equal(shard["identity"], identity)
        for i, image in enumerate(images):
            np.testing.assert_array_equal(shard.image(i), image)


def test_bytes_depend_on_content_only(tmp_path, images):
    digests = set()
    for name in ("a.h5", "another-name.h5"):
        write_shard(tmp_path / name, {"x": np.arange(5.0)}, [encode(image) for image in images], fingerprint="f")
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_fingerprint_decides_never_the_presence(tmp_path):
    path = tmp_path / "shard.h5"
    assert not is_current(path, "f")
    write_shard(path, {"x": np.zeros(1)}, fingerprint="f")
    assert is_current(path, "f")
    assert not is_current(path, "g")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert not is_current(path, "f")


def test_columns_of_different_lengths_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="different lengths"):
        write_shard(tmp_path / "shard.h5", {"x": np.zeros(1), "y": np.zeros(2)}, fingerprint="f")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_leaves_no_partial_one(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_does_not_write_through_a_hard_link(tmp_path):
    cached, out = tmp_path / "cached", tmp_path / "out"
    cached.write_text("cached")
    out.hardlink_to(cached)
    with replacing(out) as partial:
        partial.write_text("new")
    assert cached.read_text() == "cached"
    assert out.read_text() == "new"


def test_a_fingerprint_covers_parameters_content_and_code(tmp_path):
    path = tmp_path / "input"
    path.write_text("a")
    first = fingerprint({"x": 1}, path, code=["store"])
    assert first == fingerprint({"x": 1}, path, code=["store"])
    assert first != fingerprint({"x": 2}, path, code=["store"])
    assert first != fingerprint({"x": 1}, path, code=["params"])
    path.write_text("b")
    assert first != fingerprint({"x": 1}, path, code=["store"])


def test_broken_shards_and_images_name_themselves(tmp_path):
    path = tmp_path / "shard.h5"
    path.write_bytes(b"not hdf5")
    with pytest.raises(StoreError, match=r"shard\.h5"):
        Shard(path)
    write_shard(path, {"x": np.zeros(1)}, [b"no image"], fingerprint="f")
    with Shard(path) as shard:
        with pytest.raises(StoreError, match=r"shard\.h5, row 0"):
            shard.image(0)
        with pytest.raises(StoreError, match="no column 'y'"):
            shard["y"]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("codec", ["PNG", "JPEG", "WEBP"])
def test_pixels_are_pillows(codec, mode):
    if codec == "JPEG" and mode in ("P", "RGBA"):
        pytest.skip("JPEG has no such images")
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((70, 51)).convert(mode)
    file = io.BytesIO()
    picture.save(file, codec, lossless=True)
    found = decode(file.getvalue())
    np.testing.assert_array_equal(found, np.asarray(Image.open(file).convert("RGB")))
    for share in (0, 0.5, 0.99):
        with pytest.raises(StoreError, match=r"a\.img: does not decode"):
            decode(file.getvalue()[: int(share * len(file.getvalue()))], "a.img")


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_lossy_codecs_come_close(codec):
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (64, 64, 3))
    error = np.abs(decode(encode(np.ascontiguousarray(ramp), codec)).astype(int) - ramp)
    assert error.max() <= 6


def test_an_emptied_folder_leaves_what_its_files_were_linked_to(tmp_path):
    folder, cached = tmp_path / "a/b", tmp_path / "cached"
    assert list(emptied(folder).iterdir()) == []
    (folder / "c").mkdir()
    (folder / "c/d").write_text("content")
    os.link(folder / "c/d", cached)
    cached.chmod(0o444)
    assert list(emptied(folder).iterdir()) == []
    assert cached.read_text() == "content"
