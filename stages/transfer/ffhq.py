"""Cut faces as FFHQ was cut, for generators that know no other faces, and put back what they paint.

The square is that of Karras et al.'s script (`align_all_parallel.py` in pSp and e4e). There, eyes and mouth come from
dlib's 68 landmarks; here they are five points. What lies outside of the image is mirrored; the official script also
blurs it. Interpolation is linear, for images of about the square's size or less.

Notation: h x w pixels, s pixels of the square's side.
"""

from __future__ import annotations

import cv2
import numpy as np


def square_of(points: np.ndarray, size: int) -> np.ndarray:
    """The square by which FFHQ was cut, as the [2, 3] matrix from it, of `size` px, to the image.

    It is turned as the line between the eyes and the one from them to the mouth are on average; its side is the larger
    of 4 times the eyes' distance and 3.6 times their distance to the mouth.

    Args:
        points: [5, 2] px: eyes, nose, corners of the mouth, pixel centres at whole numbers.
        size: px.

    Raises:
        ValueError: the points coincide.
    """
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    across, down = points[1] - points[0], mouth - eyes
    x = across + np.array([down[1], -down[0]])
    if not np.hypot(*x) > 0:
        raise ValueError(f"the points {points.round(1).tolist()} span no square")
    x *= max(2 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    corner = eyes + 0.1 * down - x - y
    axes = 2 * np.stack([x, y], 1) / size
    return np.concatenate([axes, (corner + axes @ (0.5, 0.5))[:, None]], 1)


def put_back(image: np.ndarray, points: np.ndarray | None, face: np.ndarray) -> np.ndarray:
    """The image [h, w, 3] uint8 with what was painted, [s, s, 3] uint8, in the place of its square."""
    assert points is not None
    side = round(float(np.linalg.norm(square_of(points, 1)[:, 0])))
    if side < len(face):
        face = resize(face, max(1, side))
    matrix = square_of(points, len(face))
    h, w = image.shape[:2]
    warped = cv2.warpAffine(face, matrix, (w, h), borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(np.ones(face.shape[:2], np.float32), matrix, (w, h))[..., None]
    return (mask * warped + (1 - mask) * image).round().astype(np.uint8)


def cut(image: np.ndarray, points: np.ndarray | None, size: int) -> np.ndarray:
    """The square of an image [h, w, 3] uint8: [size, size, 3]. Without points, the image is the square."""
    if points is None:
        return resize(image, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = square_of(points, size)
    return cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """[h, w, 3] uint8 -> [size, size, 3]; by area if smaller, else linear."""
    kind = cv2.INTER_AREA if size < min(image.shape[:2]) else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=kind)


def points_of(points: np.ndarray | None, n: int) -> list[np.ndarray | None]:
    """The points [5, 2] of each of n images, or none for each.

    Raises:
        ValueError: points of another shape than [n, 5, 2].
    """
    if points is None:
        return [None] * n
    if np.shape(points) != (n, 5, 2):
        raise ValueError(f"points {list(np.shape(points))} for {n} images: [n, 5, 2] was expected")
    return list(np.asarray(points, float))
