"""IDiff-Face's RandAugment(4, 16) (official `rand_augment.py`): four of 13 operations, of magnitude 1 to 16 of 30.

A variant of torchvision's: it leaves out the vertical shear and shift, adds grey, and draws each magnitude instead of
taking the largest. Pixels are Pillow's to within a level or two; everything stays uint8 and runs in OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from stages.train.augment import brightness, contrast, saturation

OPERATIONS, MAGNITUDE, BINS = 4, 16, 30
SHIFT = 150 / 331  # of the side, at the largest magnitude
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's ImageFilter.SMOOTH


def randaugment(image: np.ndarray, rng: np.random.Generator, flip: float = 0.5) -> np.ndarray:
    """Flip with a probability, then apply four operations, each drawn from all.

    Args:
        image: [h, w, 3] uint8 RGB; left as it is.
        rng: this image's own generator.
        flip: probability of a horizontal flip.

    Returns:
        [h, w, 3] uint8 RGB.
    """
    if rng.random() < flip:
        image = cv2.flip(image, 1)
    kinds = rng.integers(len(_OPERATIONS), size=OPERATIONS)
    levels = rng.integers(1, MAGNITUDE + 1, OPERATIONS) / BINS
    signs = rng.choice([-1, 1], OPERATIONS)
    for kind, level, sign in zip(kinds.tolist(), levels.tolist(), signs.tolist(), strict=True):
        image = _OPERATIONS[kind](image, level, sign)
    return image


def shear(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Move each row by up to 0.3 of its distance from the top, where nothing moves."""
    return _resample(image, np.array([[1, sign * 0.3 * level, 0], [0, 1, 0]]))


def shift(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Move to the right or left by up to 150 of 331 of the side."""
    return _resample(image, np.array([[1.0, 0, -int(sign * SHIFT * image.shape[0] * level)], [0, 1, 0]]))


def rotate(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Turn by up to 30 degrees."""
    height, width = image.shape[:2]
    cosine, sine = math.cos(math.radians(30 * level)), sign * math.sin(math.radians(30 * level))
    x, y = width / 2, height / 2
    return _resample(
        image, np.array([[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y]])
    )


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with its smoothed self, but for the outermost pixels."""
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, _SMOOTH)[1:-1, 1:-1]
    return cv2.addWeighted(image, factor, smooth, 1 - factor, 0)


def posterize(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Keep 8 to 4 bits."""
    return image & np.uint8(256 - 2 ** round(4 * level))


def solarize(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Invert the levels from 255 down to a threshold."""
    levels = np.arange(256)
    return cv2.LUT(image, np.where(levels < 255 * (1 - level), levels, 255 - levels).astype(np.uint8))


def autocontrast(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Stretch each channel from 0 to 255."""
    low, high = np.array([cv2.minMaxLoc(channel)[:2] for channel in cv2.split(image)]).T
    scale = np.where(high > low, 255 / np.maximum(high - low, 1), 1)
    table = (np.arange(256)[:, None] * scale - np.where(high > low, low * scale, 0)).clip(0, 255)
    return cv2.LUT(image, table.astype(np.uint8)[None])


def equalize(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Give each channel all levels equally often, as Pillow counts."""
    table = np.empty((1, 256, 3), np.uint8)
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = int(counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
        if step and np.count_nonzero(counts) > 1:
            table[0, :, channel] = ((step // 2 + np.cumsum(counts) - counts) // step).clip(0, 255)
        else:
            table[0, :, channel] = np.arange(256)
    return cv2.LUT(image, table)


def grey(image: np.ndarray, level: float = 0, sign: int = 0) -> np.ndarray:
    """Each pixel's grey in all channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _blended(
    blend: Callable[[np.ndarray, float], np.ndarray],
) -> Callable[[np.ndarray, float, int], np.ndarray]:
    return lambda image, level, sign: blend(image, 1 + sign * 0.9 * level)


def _resample(image: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """The nearest pixel at the place in the image that `inverse` [2, 3] gives, corner to corner; zeros outside."""
    centred = inverse.copy()
    centred[:, 2] += inverse[:, :2].sum(1) / 2 - 0.5  # OpenCV counts from the middle of the first pixel
    return cv2.warpAffine(image, centred, image.shape[1::-1], flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)


_OPERATIONS: tuple[Callable[[np.ndarray, float, int], np.ndarray], ...] = (
    lambda image, level, sign: image,
    shear,
    shift,
    rotate,
    _blended(brightness),
    _blended(saturation),
    _blended(contrast),
    _blended(sharpness),
    posterize,
    solarize,
    autocontrast,
    equalize,
    grey,
)
