"""From light to pixels: exposure and tone curve, and what a real camera adds: blur, noise, colour cast, compression."""

from __future__ import annotations

import cv2
import numpy as np

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def _expose(image: np.ndarray, face: np.ndarray, skin_level: float, stops: float) -> np.ndarray:
    """Scale radiance so that the face's mean luminance suits its skin, then a shoulder that keeps highlights."""
    luminance = image @ _LUMA
    mean = float(luminance[face].mean()) if face.any() else 0.2
    target = np.interp(skin_level, [0.03, 0.12, 0.55], [0.11, 0.19, 0.33]) * 2.0**stops
    image = image * np.float32(target / max(mean, 0.02))
    return image * (1 + 0.14 * image) / (1 + 0.42 * image) * np.float32(1.1)


def encode(image: np.ndarray) -> np.ndarray:
    """SRGB in [0, 1] of linear light."""
    image = np.clip(image, 0, 1)
    return np.where(image <= 0.0031308, image * 12.92, 1.055 * np.power(image, 1 / 2.4) - 0.055)


def develop_raster(image: np.ndarray, face: np.ndarray, skin_level: float, stops: float) -> np.ndarray:
    """A game engine's frame: exposed, tone-mapped, clean. Radiance [s, s, 3] to uint8."""
    return (encode(_expose(image, face, skin_level, 0.5 * stops)) * 255 + 0.5).astype(np.uint8)


def develop_camera(
    image: np.ndarray, face: np.ndarray, skin_level: float, stops: float, quality: float, rng: np.random.Generator
) -> np.ndarray:
    """A photograph: lens blur, vignette, white balance, saturation, sensor noise, JPEG. Radiance [s, s, 3] to uint8.

    `quality` in [0, 1] sets blur (of up to 1.5 % of the frame), lost resolution, noise and the JPEG's quality.
    """
    size = image.shape[0]
    bad = 1 - quality
    image = _expose(image, face, skin_level, stops)
    sigma = size * (0.0022 + 0.011 * bad * rng.random())
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma)
    if bad > 0.5 and rng.random() < 0.7:
        small = max(24, int(size * rng.uniform(0.25, 0.6)))
        image = cv2.resize(
            cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size), interpolation=cv2.INTER_CUBIC
        )
    axis = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    image = image * (1 - np.float32(rng.uniform(0, 0.16)) * (axis[:, None] + axis[None])[..., None])
    cast = np.clip(rng.normal(0, 0.05), -0.12, 0.12)
    image = image * np.array([1 + cast, 1 + rng.normal(0, 0.012), 1 - cast], np.float32)
    grey = image @ _LUMA
    image = grey[..., None] + (image - grey[..., None]) * np.float32(
        rng.normal(1.08, 0.14) * (0.0 if rng.random() < 0.02 else 1.0)
    )
    image = np.maximum(image, 0)
    shot, read = 0.012 + 0.05 * bad * rng.random(), 0.002 + 0.006 * bad * rng.random()
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image = encode(image + noise * (shot * np.sqrt(image) * 0.5 + read).astype(np.float32))
    image = np.clip((image - 0.5) * rng.normal(1.06, 0.07) + 0.5, 0, 1)
    pixels = (image * 255 + 0.5).astype(np.uint8)
    compression = int(np.clip(97 - 55 * bad - 12 * rng.random(), 25, 97))
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, compression])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(decoded[..., ::-1])
