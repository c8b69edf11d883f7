"""Film: a photograph is the same by its random numbers, and loses sharpness with quality."""

import cv2
import numpy as np
import pytest

from stages.world import film


@pytest.fixture(scope="module")
def radiance():
    grid = np.indices((112, 112)).sum(0) // 8 % 2
    return np.repeat((0.1 + 0.4 * grid)[..., None], 3, 2).astype(np.float32)


FACE = np.ones((112, 112), bool)


def photograph(radiance, quality, seed=0):
    return film.develop_camera(radiance, FACE, 0.3, 0.0, quality, np.random.default_rng(seed))


def test_noise_and_compression_follow_the_seed(radiance):
    assert np.array_equal(photograph(radiance, 0.6), photograph(radiance, 0.6))
    assert not np.array_equal(photograph(radiance, 0.6), photograph(radiance, 0.6, seed=1))


def test_lower_quality_is_less_sharp(radiance):
    def sharpness(quality):
        pictures = (photograph(radiance, quality, seed) for seed in range(12))
        smooth = (cv2.GaussianBlur(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), (0, 0), 1.0) for p in pictures)
        return np.mean([np.abs(np.diff(s.astype(float), axis=1)).max(1).mean() for s in smooth])

    assert sharpness(1.0) > 1.1 * sharpness(0.5) > 1.1**2 * sharpness(0.0)


def test_raster_frame_has_no_noise_and_keeps_the_order_of_light(radiance):
    flat = np.full((32, 32, 3), 0.2, np.float32)
    picture = film.develop_raster(flat, np.ones((32, 32), bool), 0.3, 0.0)
    assert len(np.unique(picture)) == 1
    ramp = np.tile(np.linspace(0, 2, 64, dtype=np.float32)[None, :, None], (8, 1, 3))
    levels = film.develop_raster(ramp, np.ones((8, 64), bool), 0.3, 0.0)[0, :, 0].astype(int)
    assert (np.diff(levels) >= 0).all()
    assert levels[-1] > 150 > levels[1]


def test_face_without_light_does_not_divide_by_zero():
    black = np.zeros((32, 32, 3), np.float32)
    assert film.develop_raster(black, np.zeros((32, 32), bool), 0.3, 0.0).max() == 0


def test_more_stops_are_brighter(radiance):
    dark, bright = (film.develop_raster(radiance, FACE, 0.3, stops).mean() for stops in (-1.0, 1.0))
    assert bright > dark + 10
