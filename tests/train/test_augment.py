import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from stages.train import augment as module
from stages.train.augment import (
    ERASED,
    augment,
    brightness,
    contrast,
    crop_in_place,
    low_resolution,
    photometric,
    random_erasing,
    saturation,
    synface,
    zoom,
)
from stages.train.networks import normalise


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (14, 14, 3), np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 1, 255)  # no black, so that zeros are the crop's


def rngs(count):
    return [np.random.default_rng([7, k]) for k in range(count)]


def test_nothing_at_probability_zero(image):
    assert np.array_equal(augment(image, np.random.default_rng(0), 0, 0), image)


def test_always_flips_at_one(image):
    assert np.array_equal(augment(image, np.random.default_rng(0), 0, 1), image[:, ::-1])


def test_each_acts_with_its_probability(image, monkeypatch):
    counts = dict.fromkeys(["crop_in_place", "low_resolution", "photometric"], 0)

    def counting(name):
        def count(image, rng):
            counts[name] += 1
            return image

        return count

    for name in counts:
        monkeypatch.setattr(module, name, counting(name))
    flips = sum(np.array_equal(augment(image, rng, 0.2, 0.5), image[:, ::-1]) for rng in rngs(2000))
    assert all(300 < count < 500 for count in counts.values()), counts  # 400 ± 18
    assert 900 < flips < 1100  # 1000 ± 22


def test_depends_on_its_generator_only(image):
    before = image.copy()
    first = [augment(image, rng, 0.5) for rng in rngs(40)]
    again = [augment(image, rng, 0.5) for rng in reversed(rngs(40))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, first[0]) for a in first)
    assert np.array_equal(image, before)
    assert all(a.shape == (112, 112, 3) and a.dtype == np.uint8 for a in first)


def test_crop_keeps_a_window_in_place(image):
    areas, aspects = [], []
    for rng in rngs(500):
        cropped = crop_in_place(image, rng)
        inside = cropped.any(axis=2)
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert np.array_equal(cropped[window], image[window])
        assert not cropped[~inside].any()
        assert inside[window].all()
        areas.append(inside.mean())
        aspects.append(len(columns) / len(rows))
    assert 0.19 < min(areas) < 0.25
    assert max(areas) > 0.9
    assert 0.72 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.38


def test_low_resolution_is_two_resizes(image):
    codes = [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4]
    for rng, twin in zip(rngs(30), rngs(30), strict=True):
        side = int(twin.uniform(0.2, 1.0) * 112)
        down, up = twin.integers(5, size=2)
        small = cv2.resize(image, (side, side), interpolation=codes[down])
        assert np.array_equal(low_resolution(image, rng), cv2.resize(small, (112, 112), interpolation=codes[up]))
        assert 22 <= side <= 112


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.5])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (brightness, TF.adjust_brightness),
        (contrast, TF.adjust_contrast),
        (saturation, TF.adjust_saturation),
    ],
)
def test_photometric_agrees_with_torchvision(image, ours, theirs, factor):
    expected = np.asarray(theirs(Image.fromarray(image), factor)).astype(int)
    assert np.abs(ours(image, factor).astype(int) - expected).max() <= 2  # roundings of grey and of the blend


def test_photometric_draws_order_and_factors(image):
    results = {photometric(image, rng).tobytes() for rng in rngs(20)}
    assert len(results) == 20


def test_erasing_greys_a_rectangle(image):
    """torchvision's `RandomErasing`, whose rectangle is 0 after the normalisation: the nearest level of uint8."""
    assert abs(normalise(torch.full((1, 1, 1, 3), ERASED, dtype=torch.uint8))).max() < 0.004
    image = np.where(image == ERASED, ERASED + 1, image).astype(np.uint8)[:, 8:104]
    before, areas, aspects = image.copy(), [], []
    for rng in rngs(800):
        erased = random_erasing(image, rng)
        inside = (erased == ERASED).all(axis=2)
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert np.array_equal(erased[~inside], image[~inside])
        areas.append(inside.mean())
        aspects.append(len(rows) / len(columns))
    assert np.array_equal(image, before)
    assert 0.018 < min(areas) < 0.03
    assert 0.31 < max(areas) < 0.335
    assert 0.28 < min(aspects) < 0.34
    assert 3.0 < max(aspects) < 3.6
    assert abs(np.log(aspects).mean() - np.log(0.3 * 3.3) / 2) < 0.1  # log-uniform


@pytest.mark.parametrize("width", [96, 112])
def test_zoom_is_a_window_of_the_enlarged_image(image, width):
    """Officially `Resize(112)`, to 130x112 px, and `RandomCrop((112, 96))`."""
    image = image[:, :width]
    large = cv2.resize(image, (width * 7 // 6, 130), interpolation=cv2.INTER_LINEAR)
    assert large.shape == (130, {96: 112, 112: 130}[width], 3)
    windows = {
        large[y : y + 112, x : x + width].tobytes(): (y, x)
        for y in range(19)
        for x in range(large.shape[1] - width + 1)
    }
    places = [windows[zoom(image, rng).tobytes()] for rng in rngs(400)]
    assert (min(places)[0], max(places)[0]) == (0, 18)
    assert {x for _, x in places} == set(range(large.shape[1] - width + 1))


def test_synfaces_three_act_each_with_its_probability(image):
    assert np.array_equal(synface(image, np.random.default_rng(0), 0.0, 0.0), image)
    image = np.where(image == ERASED, ERASED + 1, image).astype(np.uint8)
    erased = flipped = zoomed = 0
    for rng in rngs(400):
        seen = synface(image, rng)
        assert seen.shape == image.shape
        grey = (seen == ERASED).all(axis=2)
        plain, turned = (np.array_equal(seen[~grey], like[~grey]) for like in (image, image[:, ::-1]))
        erased, flipped, zoomed = erased + (grey.sum() > 200), flipped + turned, zoomed + (not plain and not turned)
    assert 150 < erased < 250
    assert 60 < flipped < 140  # of those that are not zoomed
    assert 150 < zoomed < 250
