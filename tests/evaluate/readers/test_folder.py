import os

import numpy as np
import pytest

from stages.evaluate.benchmarks import Landmarks
from stages.evaluate.readers.folder import folder_images
from stages.store import StoreError


@pytest.fixture
def folder(tmp_path):
    for name, content in {"a/1.jpg": b"one", "b/2.jpg": b"two", "3.jpg": b"three"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    return tmp_path


def test_named_images(folder):
    images = folder_images(folder, ["b/2.jpg", "3.jpg"])
    assert [images.encoded(number) for number in range(len(images))] == [b"two", b"three"]
    with pytest.raises(StoreError, match=r"2 of 3 images are missing, first c/4\.jpg"):
        folder_images(folder, ["c/4.jpg", "3.jpg", "a/5.jpg"])


def test_the_digest_follows_names_order_sizes_times_and_landmarks(folder):
    names = ["a/1.jpg", "b/2.jpg"]
    points = [np.full((2, 5, 2), value, np.float32) for value in (0, 1)]
    digests = [
        folder_images(folder, names).digest,
        folder_images(folder, names[::-1]).digest,
        folder_images(folder, names[:1]).digest,
        *(folder_images(folder, names, Landmarks(p, folder / "lmk", np.array([1, 2]))).digest for p in points),
    ]
    (folder / "a/1.jpg").rename(folder / "a/6.jpg")
    digests.append(folder_images(folder, ["a/6.jpg", "b/2.jpg"]).digest)
    (folder / "b/2.jpg").write_bytes(b"more")
    os.utime(folder / "b/2.jpg", ns=(10**18, 10**18))
    digests.append(folder_images(folder, ["a/6.jpg", "b/2.jpg"]).digest)
    os.utime(folder / "b/2.jpg", ns=(10**18, 2 * 10**18))
    digests.append(folder_images(folder, ["a/6.jpg", "b/2.jpg"]).digest)
    assert len(set(digests)) == len(digests)
