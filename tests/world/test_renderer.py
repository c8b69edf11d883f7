"""The world as a whole: the same bits anywhere, and traits and scenes that do what they say."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from stages.world import build_head, render, sample_scene, sample_traits
from stages.world.renderer import rotation


@pytest.fixture(scope="module")
def head():
    return build_head(sample_traits(3))


@pytest.fixture(scope="module")
def scene():
    return replace(sample_scene(3, 1), yaw=0.0, pitch=0.0, roll=0.0, glasses=None, quality=1.0)


@pytest.mark.parametrize("look", ["raster", "camera"])
def test_another_process_renders_the_same_bits(look):
    program = (
        "import hashlib; from stages.world import *; "
        f"picture = render(build_head(sample_traits(5)), sample_scene(5, 2), '{look}'); "
        "print(hashlib.sha256(picture.tobytes()).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    sample_traits(4), sample_scene(5, 1)  # what was drawn before must not matter
    here = render(build_head(sample_traits(5)), sample_scene(5, 2), look)
    assert told == hashlib.sha256(here.tobytes()).hexdigest()


@pytest.mark.parametrize("size", [48, 112])
def test_picture_has_the_size_asked_for(head, scene, size):
    picture = render(head, scene, "raster", size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


def test_hair_grown_early_or_late_is_the_same(scene):
    late, early = build_head(sample_traits(3)), build_head(sample_traits(3))
    for variant in (2, 1, 0):
        early.hair(variant)
    assert np.array_equal(render(late, scene, "raster"), render(early, scene, "raster"))


def test_rotation_is_orthonormal_and_turns_to_the_left():
    turn = rotation(0.5, -0.3, 0.2)
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.isclose(np.linalg.det(turn), 1)
    assert rotation(0.5, 0, 0)[0, 2] > 0  # the face's +z moves to +x, which is the person's left


def test_bad_arguments_are_named(head, scene):
    with pytest.raises(ValueError, match="look is 'photo'"):
        render(head, scene, "photo")
    with pytest.raises(ValueError, match="size is 8 px"):
        render(head, scene, "raster", 8)
    with pytest.raises(ValueError, match="identity -1"):
        sample_traits(-1)
    with pytest.raises(ValueError, match="sample -2"):
        sample_scene(0, -2)
