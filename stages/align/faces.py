"""Faces to one place: detect five landmarks and warp every image to ArcFace's 112 x 112 template."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.align.knobs import Align
from stages.align.mtcnn import MTCNN
from stages.align.warp import SIZE, centre_crop, similarity, warp
from stages.knobs import pick_device

CODE = ("align/faces", "align/mtcnn", "align/warp")  # what changes an aligned image


@dataclass(frozen=True)
class Aligned:
    """n images brought to the template; where no face was found, the image is the centre crop.

    images: [n, 112, 112, 3] uint8 RGB; found: [n] bool; scores: [n] float32, 0 without a face; landmarks: [n, 5, 2]
    float32 px of the image as it was, NaN without a face.
    """

    images: np.ndarray
    found: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray


def detector(align: Align) -> MTCNN:
    """The detector with a run's parameters."""
    return MTCNN(align.thresholds, align.factor, align.min_face, pick_device(align.device, "align.device"))


def detection(align: Align) -> list[object]:
    """What of the knobs changes what the detector finds, for a fingerprint."""
    return [align.thresholds, align.factor, align.min_face, pick_device(align.device, "align.device")]


def align_images(images: Sequence[np.ndarray], mtcnn: MTCNN) -> Aligned:
    """Warp the largest face of every image to the template.

    Args:
        images: [h, w, 3] uint8 RGB each, of any sizes.
        mtcnn: the detector.
    """
    n = len(images)
    aligned = Aligned(
        np.empty((n, SIZE, SIZE, 3), np.uint8),
        np.zeros(n, bool),
        np.zeros(n, np.float32),
        np.full((n, 5, 2), np.nan, np.float32),
    )
    for row, (image, faces) in enumerate(zip(images, mtcnn.detect(images), strict=True)):
        if len(faces):
            aligned.found[row], aligned.scores[row], aligned.landmarks[row] = True, faces.scores[0], faces.landmarks[0]
            aligned.images[row] = warp(image, similarity(faces.landmarks[:1])[0])
        else:
            aligned.images[row] = centre_crop(image)
    return aligned


def detection_seconds(align: Align, side: int) -> float:
    """Seconds of a core to find the faces of an image of `side` px, measured on one without a face."""
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    mtcnn = detector(replace(align, device="cpu"))
    mtcnn.detect([image])  # compiles
    begin = time.process_time()
    mtcnn.detect([image] * 4)
    return (time.process_time() - begin) / 4
