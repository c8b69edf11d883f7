import math
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from stages.train import digiface as module
from stages.train.digiface import blur, digiface, homography, hue, jpeg, motion, noise, warp
from stages.train.knobs import DigiFace
from tests.train.test_augment import image, rngs  # noqa: F401

NONE = DigiFace(**{field.name: 0.0 for field in fields(DigiFace)})
ORDER = [
    "crop",
    "blur",
    "motion",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grey",
    "noise",
    "low_resolution",
    "jpeg",
]


def test_nothing_at_probability_zero_and_the_flip_at_one(image):  # noqa: F811
    for rng in rngs(20):
        assert np.array_equal(digiface(image, rng, NONE, crop=0, flip=0), image)
    assert np.array_equal(digiface(image, rngs(1)[0], NONE, crop=0, flip=1), image[:, ::-1])


def test_each_acts_with_its_probability(image, monkeypatch):  # noqa: F811
    """The paper's probabilities, each under its own name."""
    counts = dict.fromkeys([*ORDER, "warp", "aspect"], 0)

    def counting(name):
        def count(image, *_):
            counts[name] += 1
            return image

        return count

    def geometry(width, height, rng, stretched, warped):
        counts["aspect"] += stretched
        counts["warp"] += warped

    monkeypatch.setattr(module, "_KINDS", [counting(name) for name in ORDER])
    monkeypatch.setattr(module, "homography", geometry)
    monkeypatch.setattr(module, "warp", lambda image, _: image)
    for name in counts:  # each knob turns its own kind on
        before = dict(counts)
        knobs, crop = (NONE, 1.0) if name == "crop" else (replace(NONE, **{name: 1.0}), 0.0)
        digiface(image, rngs(1)[0], knobs, crop)
        assert {other for other in counts if counts[other] > before[other]} == {name}
    counts.update(dict.fromkeys(counts, 0))
    for rng in rngs(4000):
        digiface(image, rng, DigiFace())
    expected = {"crop": 0.2} | {field.name: getattr(DigiFace(), field.name) for field in fields(DigiFace)}
    for name, probability in expected.items():
        deviation = math.sqrt(4000 * probability * (1 - probability))
        assert abs(counts[name] - 4000 * probability) <= 4 * deviation, name


def test_the_homography_is_a_similarity_and_then_moves_corners(monkeypatch):
    corners = np.array([[0, 0, 1], [112, 0, 1], [112, 112, 1], [0, 112, 1]], float)

    def moved(rng, stretched=False, warped=False):
        points = corners @ homography(112, 112, rng, stretched, warped).T
        return points[:, :2] / points[:, 2:]

    scales, angles, shifts, corner = [], [], [], []
    for rng in rngs(300):
        with monkeypatch.context() as patch:
            patch.setattr(module, "CORNER", 0.0)
            points = moved(rng, warped=True)
        sides = np.roll(points, -1, 0) - points
        lengths = np.hypot(*sides.T)
        assert np.allclose(lengths, lengths[0], rtol=1e-5)  # still a square
        scales.append(lengths[0] / 112)
        angles.append(math.degrees(math.atan2(sides[0, 1], sides[0, 0])))
        shifts.append((points.mean(0) - 56) / 112)
    for rng, twin in zip(rngs(300), rngs(300), strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(module, "CORNER", 0.0)
            without = moved(twin, warped=True)
        corner.append((moved(rng, warped=True) - without) / 112)
    for values, limit in ((np.array(scales) - 1, 0.1), (angles, 10), (shifts, 0.04), (corner, 0.04)):
        assert np.abs(values).max() < limit + 1e-4
        assert np.abs(values).max() > 0.9 * limit
    for rng in rngs(50):
        width, height = np.ptp(moved(rng, stretched=True), axis=0) / 112
        assert width * height == pytest.approx(1, abs=1e-4)
        assert max(width / height, height / width) < 1.2 + 1e-4


def test_a_warp_moves_what_is_at_a_point(image):  # noqa: F811
    """A pixel's middle stands half a pixel from its corner; the identity changes nothing."""
    assert np.array_equal(warp(image, np.eye(3)), image)
    matrix = np.array([[1.0, 0, 5], [0, 1, -3], [0, 0, 1]])
    assert np.array_equal(warp(image, matrix)[:109, 5:], image[3:, :107])
    doubled = warp(image, np.diag([2.0, 2.0, 1.0])).astype(int)
    inside = np.s_[1:, 1:]  # the outermost is mixed with the zeros outside
    assert np.abs(doubled - cv2.resize(image, (224, 224))[:112, :112])[inside].max() <= 2


def test_blurs_by_their_kernels():
    """A point becomes a Gaussian: the same in all directions, or long in one."""
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    y, x = np.mgrid[:65, :65] - 32
    ratios = []
    for rng, twin in zip(rngs(20), rngs(20), strict=True):
        sigma = twin.uniform(0.5, 2.0)
        kernel = np.exp(-(x**2 + y**2) / 2 / sigma**2)
        assert np.abs(blur(point, rng)[..., 0] - 255 * kernel / kernel.sum()).max() < 2
    for rng, twin in zip(rngs(20), rngs(20), strict=True):
        along, angle = twin.uniform(1, 4), twin.uniform(0, math.pi)
        weight = motion(point, rng)[..., 0].astype(float)
        spread = np.array([[(weight * a * b).sum() for a in (x, y)] for b in (x, y)]) / weight.sum()
        (_, large), vectors = np.linalg.eigh(spread)
        assert abs(vectors[:, 1] @ [math.cos(angle), math.sin(angle)]) > 0.95
        ratios.append(math.sqrt(large) / along)
    assert np.allclose(ratios, 1, atol=0.15)  # levels below a half are lost


def test_noise_hue_and_jpeg(image):  # noqa: F811
    flat = np.full((112, 112, 3), 128, np.uint8)
    for rng, twin in zip(rngs(5), rngs(5), strict=True):
        sigma = twin.uniform(5, 25)
        noisy = noise(flat, rng).astype(float) - 128
        assert noisy.std() == pytest.approx(sigma, rel=0.03)
        assert abs(np.corrcoef(noisy.reshape(-1, 3).T)[0, 1]) < 0.05  # channels by themselves
    assert hue(np.array([[[200, 40, 40]]], np.uint8), 1 / 3).tolist()[0][0] == pytest.approx([40, 200, 40], abs=3)
    assert hue(np.array([[[40, 200, 40]]], np.uint8), -1 / 3).tolist()[0][0] == pytest.approx([200, 40, 40], abs=3)
    for rng in rngs(5):
        compressed = jpeg(image, rng).astype(int)
        assert 0 < np.abs(compressed - image).mean() < 25
        assert np.abs(compressed - image).mean() < np.abs(compressed[..., ::-1] - image).mean()


def test_depends_on_its_generator_only(image):  # noqa: F811
    always = DigiFace(**{field.name: 1.0 for field in fields(DigiFace)})
    before = image.copy()
    for knobs in (DigiFace(), always):
        first = [digiface(image, rng, knobs) for rng in rngs(20)]
        assert all(np.array_equal(digiface(image, rng, knobs), one) for rng, one in zip(rngs(20), first, strict=True))
        assert all(one.shape == image.shape and one.dtype == np.uint8 for one in first)
        assert len({one.tobytes() for one in first}) == 20
    assert np.array_equal(image, before)
