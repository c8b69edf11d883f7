"""The five-point warp: a similarity from landmarks to ArcFace's template, and the image through it.

The transform is the least-squares similarity without reflection (Umeyama 1991), as scikit-image's
`SimilarityTransform` estimates it for insightface's `norm_crop` (`insightface/utils/face_align.py`). In the plane it
is one complex division: with points as complex numbers and both sets centred, the rotation and scale a that minimise
sum |a s - d|^2 are sum(conj(s) d) / sum |s|^2, and multiplying by a complex number never reflects.
"""

from __future__ import annotations

import cv2
import numpy as np

SIZE = 112  # px
ARCFACE_POINTS = np.array(  # x, y in px of a 112 x 112 crop: eyes, nose, corners of the mouth; left is the viewer's
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def similarity(src: np.ndarray, dst: np.ndarray = ARCFACE_POINTS) -> np.ndarray:
    """Least-squares similarities, n at once.

    Args:
        src: [n, k, 2] points, k >= 2.
        dst: [k, 2] or [n, k, 2] points.

    Returns:
        [n, 2, 3] float64 matrices that take src to dst.

    Raises:
        ValueError: the points of a source are not finite or all coincide.
    """
    s, d = (points[..., 0] + 1j * points[..., 1] for points in (np.asarray(src, float), np.asarray(dst, float)))
    s_mean, d_mean = s.mean(-1, keepdims=True), d.mean(-1, keepdims=True)
    spread = (np.abs(s - s_mean) ** 2).sum(-1)
    if not (spread > 0).all():
        raise ValueError("similarity: the source points must be finite and must not coincide")
    a = ((s - s_mean).conj() * (d - d_mean)).sum(-1) / spread
    b = (d_mean - a[:, None] * s_mean)[:, 0]
    return np.stack([np.stack([a.real, -a.imag, b.real], -1), np.stack([a.imag, a.real, b.imag], -1)], -2)


def warp(image: np.ndarray, matrix: np.ndarray, size: int = SIZE) -> np.ndarray:
    """The image seen through a [2, 3] matrix: [size, size, 3] uint8, bilinear, black outside."""
    return cv2.warpAffine(image, matrix, (size, size), borderValue=0)


def centre_crop(image: np.ndarray, size: int = SIZE) -> np.ndarray:
    """The largest centred square, resized: [size, size, 3] uint8."""
    h, w = image.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = image[top : top + side, left : left + side]
    return square if side == size else cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
