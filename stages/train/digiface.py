"""DigiFace-1M's own augmentations (Bae et al. 2023, section 3.3), with which the same renders train a better network.

The paper gives the kinds and their probabilities (the block `digiface`), and no magnitude: those, the constants here,
are ours. Blur, noise and JPEG are about as strong as in a published variant (ndido98/sdfr), colours as in AdaFace's.
The order is ours too: geometry, blur and light as a camera's lens has them, then its noise and its file.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from stages.store import decode
from stages.train.augment import brightness, contrast, crop_in_place, low_resolution, saturation
from stages.train.knobs import DigiFace
from stages.train.randaugment import grey

BLUR = (0.5, 2.0)  # sigma, pixels of 112
MOTION = (1.0, 4.0)  # sigma along the motion
ACROSS = 0.4  # sigma across it
NOISE = (5.0, 25.0)  # sigma, of 255 levels
FACTOR = (0.5, 1.5)  # of brightness, contrast and saturation
HUE = 0.05  # of the circle, to either side
QUALITY = (20, 80)  # JPEG's
ASPECT = 1.2  # the larger side's stretch over the smaller's, at most
SCALE = 0.1  # around 1
ROTATION = 10.0  # degrees, to either side
SHIFT = 0.04  # of the side
CORNER = 0.04  # of the side, each corner by itself


def digiface(
    image: np.ndarray, rng: np.random.Generator, knobs: DigiFace, crop: float = 0.2, flip: float = 0.5
) -> np.ndarray:
    """Augment one image.

    Args:
        image: [h, w, 3] uint8 RGB; left as it is.
        rng: this image's own generator.
        knobs: the probability of each kind.
        crop, flip: probabilities of AdaFace's crop and of a horizontal flip, which the paper takes over.

    Returns:
        [h, w, 3] uint8 RGB.
    """
    draws = rng.random(13)
    geometry = [knobs.aspect, knobs.warp, crop]
    light = [knobs.blur, knobs.motion, knobs.brightness, knobs.contrast, knobs.saturation, knobs.hue, knobs.grey]
    file = [knobs.noise, knobs.low_resolution, knobs.jpeg]
    stretched, warped, *others = (draws < geometry + light + file).tolist()
    if stretched or warped:
        image = warp(image, homography(image.shape[1], image.shape[0], rng, stretched, warped))
    for acts, kind in zip(others, _KINDS, strict=True):
        if acts:
            image = kind(image, rng)
    return cv2.flip(image, 1) if rng.random() < flip else image


def homography(width: int, height: int, rng: np.random.Generator, stretched: bool, warped: bool) -> np.ndarray:
    """Where a point of the image goes: [3, 3] float64, pixels.

    Around the middle, `stretched` changes the aspect ratio and keeps the area, and `warped` scales, rotates and shifts,
    and then moves each corner by itself.
    """
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    middle, side = corners.mean(0), np.array([width, height])
    moved = corners - middle
    if stretched:
        stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(ASPECT))
        moved = moved * (stretch, 1 / stretch)
    if warped:
        angle, scale = math.radians(rng.uniform(-ROTATION, ROTATION)), rng.uniform(1 - SCALE, 1 + SCALE)
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        moved = moved @ [[cosine, sine], [-sine, cosine]] + rng.uniform(-SHIFT, SHIFT, 2) * side
        moved = moved + rng.uniform(-CORNER, CORNER, (4, 2)) * side
    return cv2.getPerspectiveTransform(corners.astype(np.float32), (moved + middle).astype(np.float32))


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Move the image's points by a homography between corners of pixels, linearly interpolated, with zeros outside."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV counts from the middle of the first pixel
    return cv2.warpPerspective(image, np.linalg.inv(half) @ matrix @ half, image.shape[1::-1], flags=cv2.INTER_LINEAR)


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, the same in all directions."""
    sigma = rng.uniform(*BLUR)
    return cv2.GaussianBlur(image, (0, 0), sigma)


def motion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian of anisotropic covariance in a random direction."""
    along, angle = rng.uniform(*MOTION), rng.uniform(0, math.pi)
    reach = math.ceil(3 * along)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-0.5 * ((u / along) ** 2 + (v / ACROSS) ** 2))
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of each channel by itself."""
    sigma = np.float32(rng.uniform(*NOISE))
    noisy = rng.standard_normal(image.shape, np.float32) * sigma + image
    return np.rint(noisy).clip(0, 255).astype(np.uint8)


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn all hues by a part of the circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(256 * shift) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compress as a JPEG file, and read it back."""
    quality = int(rng.integers(QUALITY[0], QUALITY[1] + 1))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return decode(encoded.tobytes())


_KINDS = (
    crop_in_place,
    blur,
    motion,
    lambda image, rng: brightness(image, rng.uniform(*FACTOR)),
    lambda image, rng: contrast(image, rng.uniform(*FACTOR)),
    lambda image, rng: saturation(image, rng.uniform(*FACTOR)),
    lambda image, rng: hue(image, rng.uniform(-HUE, HUE)),
    lambda image, rng: grey(image),
    noise,
    low_resolution,
    jpeg,
)
