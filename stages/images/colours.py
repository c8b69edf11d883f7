"""Whether a set's images look as if red and blue were swapped: BGR that was stored as RGB."""

from __future__ import annotations

import numpy as np

from stages.images.faces import Faces

LEVELS = 8  # of 255, by which blue must be above red


def looks_swapped(faces: Faces, count: int = 64) -> bool:
    """Whether most faces of a sample are bluer than red, as no skin is.

    Args:
        faces: the set.
        count: images to look at, evenly from all.
    """
    rows = np.linspace(0, len(faces) - 1, min(count, len(faces))).round().astype(int)
    return bool(np.mean([_blueness(faces.image(row)) > LEVELS for row in rows.tolist()]) > 0.5)


def _blueness(image: np.ndarray) -> float:
    """How much bluer than red the middle of an image [h, w, 3] is, where a face has its cheeks and nose."""
    height, width = image.shape[:2]
    middle = image[height // 3 : -(height // 3) or None, width // 3 : -(width // 3) or None]
    red, _, blue = middle.reshape(-1, 3).mean(0)
    return float(blue - red)
