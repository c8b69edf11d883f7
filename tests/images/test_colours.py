import cv2
import numpy as np
import pytest

from stages.images import looks_swapped, read_faces
from stages.store import encode
from tests.images.forms import write_tree

# the Monk skin tone scale, sRGB
MONK = ["f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420"]


@pytest.fixture
def people():
    """Ovals of skin before blue."""
    images = [np.full((48, 48, 3), (20, 60, 200), np.uint8) for _ in MONK]
    for image, tone in zip(images, MONK, strict=True):
        cv2.ellipse(image, (24, 24), (13, 18), 0, 0, 360, tuple(bytes.fromhex(tone)), -1)
    return images


def looks(tmp_path, images):
    files = {f"{person}/0.png": encode(np.ascontiguousarray(image)) for person, image in enumerate(images)}
    return looks_swapped(read_faces(write_tree(tmp_path, files)))


def test_faces_whose_channels_are_swapped(tmp_path, people):
    assert not looks(tmp_path / "rgb", people)
    assert looks(tmp_path / "bgr", [image[..., ::-1] for image in people])


def test_what_has_no_colour_is_not_swapped(tmp_path, people):
    assert not looks(tmp_path / "gray", [image[..., :1].repeat(3, axis=2) for image in people])
    noise = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), dtype=np.uint8)
    assert not looks(tmp_path / "noise", noise)
    assert not looks(tmp_path / "tiny", np.zeros((1, 1, 1, 3), np.uint8))


def test_only_a_sample_is_read(tmp_path, people, monkeypatch):
    faces = read_faces(write_tree(tmp_path, {f"0/{k}.png": encode(people[0]) for k in range(9)}))
    seen = []
    monkeypatch.setattr(faces, "image", lambda row: seen.append(row) or people[0])
    looks_swapped(faces, 3)
    assert seen == [0, 4, 8]
