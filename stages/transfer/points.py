"""Where a face's five points lie, for methods that cut the face out before they translate it."""

from __future__ import annotations

import numpy as np

from stages.align.mtcnn import MTCNN
from stages.align.warp import ARCFACE_POINTS, SIZE


def points_in(image: np.ndarray, mtcnn: MTCNN | None, template: np.ndarray | None = None) -> np.ndarray:
    """Eyes, nose and corners of the mouth of the largest face of an image [h, w, 3] uint8, in px: [5, 2].

    Where none is found, or without a detector, they are those of the template.

    Args:
        image: on its own, so that it depends on no other.
        mtcnn: the detector.
        template: [5, 2] in shares of the image's width and height; default is ArcFace's in its centred square.
    """
    if mtcnn and len(faces := mtcnn.detect([image])[0]):
        return faces.landmarks[0]
    h, w = image.shape[:2]
    if template is not None:
        return template * (w, h)
    side = min(h, w)
    return (ARCFACE_POINTS + 0.5) * side / SIZE - 0.5 + ((w - side) / 2, (h - side) / 2)
