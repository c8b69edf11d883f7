import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from stages.train import randaugment as module
from stages.train.randaugment import _OPERATIONS, randaugment
from tests.train.test_augment import image, rngs  # noqa: F401

NAMES = "Identity ShearX TranslateX Rotate Brightness Color Contrast Sharpness Posterize Solarize AutoContrast Equalize"
NAMES += " Grayscale"
NEAREST = {"interpolation": InterpolationMode.NEAREST, "fill": None}


def theirs(name, picture, magnitude, sign):
    """Official, by torchvision on Pillow: magnitude of 0 to 30, as `_augmentation_space` has it."""
    part = magnitude / 30
    no = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    if name == "ShearX":
        degrees = float(np.degrees(np.arctan(sign * 0.3 * part)))
        return TF.affine(picture, **no | {"shear": [degrees, 0.0]}, center=[0, 0], **NEAREST)
    if name == "TranslateX":
        return TF.affine(picture, **no | {"translate": [int(sign * 150 / 331 * 112 * part), 0]}, **NEAREST)
    if name == "Rotate":
        return TF.rotate(picture, sign * 30 * part, **NEAREST)
    factor = 1 + sign * 0.9 * part
    return {
        "Identity": lambda: picture,
        "Brightness": lambda: TF.adjust_brightness(picture, factor),
        "Color": lambda: TF.adjust_saturation(picture, factor),
        "Contrast": lambda: TF.adjust_contrast(picture, factor),
        "Sharpness": lambda: TF.adjust_sharpness(picture, factor),
        "Posterize": lambda: ImageOps.posterize(picture, 8 - round(magnitude / 7.5)),
        "Solarize": lambda: ImageOps.solarize(picture, 255 - 255 * part),
        "AutoContrast": lambda: ImageOps.autocontrast(picture),
        "Equalize": lambda: ImageOps.equalize(picture),
        "Grayscale": lambda: TF.rgb_to_grayscale(picture, 3),
    }[name]()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("magnitude", [1, 7, 16])
@pytest.mark.parametrize(("kind", "name"), list(enumerate(NAMES.split())))
def test_an_operation_is_the_official_one(image, kind, name, magnitude, sign):  # noqa: F811
    image = np.clip(image, 20, 200)  # so that there is a contrast to stretch
    ours = _OPERATIONS[kind](image, magnitude / 30, sign).astype(int)
    expected = np.asarray(theirs(name, Image.fromarray(image), magnitude, sign)).astype(int)
    if name in ("ShearX", "TranslateX", "Rotate"):
        assert (ours != expected).any(2).mean() < 0.03  # a pixel's neighbour, where its place rounds otherwise
    else:
        assert np.abs(ours - expected).max() <= (2 if name in ("Brightness", "Color", "Contrast", "Sharpness") else 1)
    if name in ("Posterize", "Solarize", "AutoContrast", "Equalize"):
        assert np.array_equal(ours, expected)


def test_a_flat_image_has_no_contrast_to_stretch():
    flat = np.full((8, 8, 3), 90, np.uint8)
    assert np.array_equal(module.autocontrast(flat, 0, 1), flat)
    assert np.array_equal(module.equalize(flat, 0, 1), flat)


def test_four_of_all_with_magnitudes_1_to_16_and_either_sign(image, monkeypatch):  # noqa: F811
    seen = []

    def operation(kind):
        return lambda image, level, sign: (seen.append((kind, round(30 * level), sign)), image)[1]

    monkeypatch.setattr(module, "_OPERATIONS", [operation(kind) for kind in range(13)])
    flipped = sum(np.array_equal(randaugment(image, rng), image[:, ::-1]) for rng in rngs(1000))
    kinds, magnitudes, signs = map(np.array, zip(*seen, strict=True))
    assert len(seen) == 4000
    assert 450 < flipped < 550
    assert np.bincount(kinds).min() > 240  # 308 ± 17
    assert sorted(set(magnitudes)) == list(range(1, 17))
    assert np.bincount(magnitudes)[1:].min() > 195  # 250 ± 15
    assert abs(signs.mean()) < 0.06


def test_depends_on_its_generator_only(image):  # noqa: F811
    before = image.copy()
    first = [randaugment(image, rng) for rng in rngs(30)]
    assert all(np.array_equal(randaugment(image, rng), one) for rng, one in zip(rngs(30), first, strict=True))
    assert np.array_equal(image, before)
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in first)
