import zipfile

import numpy as np
import pytest

from stages.evaluate.benchmarks import Landmarks
from stages.evaluate.readers.folder import named_images
from stages.images import Archive
from stages.store import StoreError


@pytest.fixture
def folder(tmp_path):
    for name, content in {"a/1.jpg": b"one", "b/2.jpg": b"two", "3.jpg": b"three"}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    return tmp_path / "set"


def read(folder, names, landmarks=None):
    return named_images(Archive(folder), names, landmarks)


def test_named_images(folder):
    images = read(folder, ["b/2.jpg", "3.jpg"])
    assert [images.encoded(number) for number in range(len(images))] == [b"two", b"three"]
    with pytest.raises(StoreError, match=r"2 of 3 images are missing, first c/4\.jpg"):
        read(folder, ["c/4.jpg", "3.jpg", "a/5.jpg"])


def test_a_copy_of_the_set_in_another_format(folder):
    (folder / "b/2.jpg").rename(folder / "b/2.PNG")
    images = read(folder, ["a/1.jpg", "b/2.jpg"])
    assert [images.encoded(number) for number in range(2)] == [b"one", b"two"]
    assert list(images.names) == ["a/1.jpg", "b/2.jpg"]


def test_the_digest_follows_names_order_content_and_landmarks(folder):
    names = ["a/1.jpg", "b/2.jpg"]
    points = [np.full((2, 5, 2), value, np.float32) for value in (0, 1)]
    digests = [
        read(folder, names).digest,
        read(folder, names[::-1]).digest,
        read(folder, names[:1]).digest,
        *(read(folder, names, Landmarks(p, folder / "lmk", np.array([1, 2]))).digest for p in points),
    ]
    (folder / "a/1.jpg").rename(folder / "a/6.jpg")
    digests.append(read(folder, ["a/6.jpg", "b/2.jpg"]).digest)
    (folder / "b/2.jpg").write_bytes(b"owt")
    digests.append(read(folder, ["a/6.jpg", "b/2.jpg"]).digest)
    assert len(set(digests)) == len(digests)


def test_equal_images_have_one_digest_wherever_they_lie(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for name in ("a/1.jpg", "b/2.jpg", "3.jpg"):
            file.write(folder / name, name)
    names = ["3.jpg", "a/1.jpg"]
    assert read(tmp_path / "set.zip", names).digest == read(folder, names).digest
