"""Sheets of images and charts of numbers: one painter of each, equal input giving equal bytes.

Images are [h, w, 3] uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.store import replacing

TILE = 96  # px
GAP, LINE = 2, 16  # px between tiles; px of a line of text
INK = "#333"


def sheet(
    rows: Mapping[str, Sequence[np.ndarray]],
    tile: int = TILE,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> np.ndarray:
    """A row of images under each title; images of any shape, scaled to `tile` px of height.

    Args:
        rows: title -> images, which may be none.
        tile: px.
        captions: title -> a line below each of its images.
    """
    captions = captions or {}
    scaled = {title: [_scaled(image, tile) for image in images] for title, images in rows.items()}
    width = max([sum(image.shape[1] + GAP for image in images) for images in scaled.values()] + [200])
    heights = [LINE + tile + (LINE if captions.get(title) else 0) + 2 * GAP for title in scaled]
    page = Image.new("RGB", (width, max(sum(heights), LINE)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    top = 0
    for (title, images), height in zip(scaled.items(), heights, strict=True):
        pen.text((1, top + 1), title, INK, font)
        left = 0
        for image, caption in zip(images, [*captions.get(title, [])] or [""] * len(images), strict=True):
            page.paste(Image.fromarray(image), (left, top + LINE))
            pen.text((left + 1, top + LINE + tile + 1), caption, INK, font)
            left += image.shape[1] + GAP
        top += height
    return np.asarray(page)


def _scaled(image: np.ndarray, height: int) -> np.ndarray:
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrinks = height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a PNG, moved into place."""
    with replacing(path) as partial:
        Image.fromarray(image).save(partial, "png")
