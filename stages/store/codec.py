"""Encoded images to pixels and back.

One rule for all images: pixels are taken as they are stored, and an EXIF orientation is not applied.
"""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from stages.store.files import StoreError

CODECS = ("png", "jpeg", "webp")


def encode(image: np.ndarray, codec: str = "png", quality: int = 95) -> bytes:
    """Encode [h, w, 3] uint8 RGB as `png`, `jpeg` or `webp` (`quality` 1 to 100 for the lossy two)."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"compress_level": 3} if codec == "png" else {"quality": quality}
    Image.fromarray(image).save(buffer, codec.upper(), **options)
    return buffer.getvalue()


def decode(encoded: bytes, name: str = "image") -> np.ndarray:
    """Decode an image to [h, w, 3] uint8 RGB; the pixels are Pillow's, in half its time for a JPEG.

    Raises:
        StoreError: the bytes are no image, or not all of one, or one too large to decode; the message says which
            (`name`).
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    except cv2.error as error:
        raise StoreError(f"{name}: too large to decode, or broken ({error.err}); shrink it or leave it out") from error
    if image is None:
        raise StoreError(f"{name}: does not decode as an image; fetch it again")
    return image
