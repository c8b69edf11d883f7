"""AdaFace's augmentations (official `augmenter.py`): crop in place, low resolution, photometric, horizontal flip; and
SynFace's (`train.py`): zoom and random erasing.

Everything stays uint8 and runs in OpenCV: 112x112 images cost well under a tenth of a millisecond on average.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

ZOOM = 112 / 96  # SynFace's
ERASED = 128  # its level, 0 after the normalisation; 127.5 is none of uint8
_INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


def augment(image: np.ndarray, rng: np.random.Generator, probability: float = 0.2, flip: float = 0.5) -> np.ndarray:
    """Augment one image.

    Args:
        image: [h, w, 3] uint8 RGB; left as it is.
        rng: this image's own generator.
        probability: of each of the three augmentations, independently.
        flip: probability of a horizontal flip.

    Returns:
        [h, w, 3] uint8 RGB.
    """
    if rng.random() < probability:
        image = crop_in_place(image, rng)
    if rng.random() < probability:
        image = low_resolution(image, rng)
    if rng.random() < probability:
        image = photometric(image, rng)
    if rng.random() < flip:
        image = image[:, ::-1]
    return image


def synface(image: np.ndarray, rng: np.random.Generator, probability: float = 0.5, flip: float = 0.5) -> np.ndarray:
    """SynFace's recipe (official `train.py`): zoom, flip and random erasing.

    Args:
        image: [h, w, 3] uint8; left as it is.
        rng: this image's own generator.
        probability: of zoom and of erasing, independently; officially 0.5.
        flip: probability of a horizontal flip.

    Returns:
        [h, w, 3] uint8.
    """
    if rng.random() < probability:
        image = zoom(image, rng)
    if rng.random() < flip:
        image = image[:, ::-1]
    if rng.random() < probability:
        image = random_erasing(image, rng)
    return image


def zoom(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random window of the enlarged image: `Resize(112)` and `RandomCrop` of 112x96 px, of 112x112 alike."""
    height, width = image.shape[:2]
    large = cv2.resize(image, (int(width * ZOOM), int(height * ZOOM)), interpolation=cv2.INTER_LINEAR)
    y, x = (rng.integers(big - small + 1) for big, small in zip(large.shape, (height, width), strict=False))
    return large[y : y + height, x : x + width]


def random_erasing(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make a rectangle of 0.02 to 0.33 of the area and an aspect of 0.3 to 3.3 grey (torchvision's `RandomErasing`)."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(0.02, 0.33)
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            image = image.copy()
            image[y : y + h, x : x + w] = ERASED
            return image
    return image


def crop_in_place(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep a window of 0.2 to 1 of the area and an aspect of 3/4 to 4/3 where it is, with zeros around it.

    The window is drawn as torchvision's `RandomResizedCrop` draws it; after ten that do not fit, the image stays whole.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(0.2, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            window = np.zeros_like(image)
            window[y : y + h, x : x + w] = image[y : y + h, x : x + w]
            return window
    return image


def low_resolution(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrink to 0.2 to 1 of the side and enlarge again, each with a random one of five interpolations."""
    height, width = image.shape[:2]
    ratio = rng.uniform(0.2, 1.0)
    down, up = rng.integers(len(_INTERPOLATIONS), size=2)
    small = cv2.resize(image, (int(ratio * width), int(ratio * height)), interpolation=_INTERPOLATIONS[down])
    return cv2.resize(small, (width, height), interpolation=_INTERPOLATIONS[up])


def photometric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation by factors of 0.5 to 1.5, in random order (`ColorJitter(.5, .5, .5, 0)`)."""
    for kind in rng.permutation(3):
        factor = rng.uniform(0.5, 1.5)
        image = (brightness, contrast, saturation)[kind](image, factor)
    return image


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: factor x."""
    return cv2.LUT(image, _levels(factor, 0))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the image's mean grey level."""
    grey = round(float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()))
    return cv2.LUT(image, _levels(factor, (1 - factor) * grey))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend each pixel with its grey."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def _levels(gain: float, offset: float) -> np.ndarray:
    return np.clip(np.rint(gain * np.arange(256) + offset), 0, 255).astype(np.uint8)
