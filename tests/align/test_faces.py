from dataclasses import replace

import numpy as np
import pytest

from stages.align.faces import align_images, detection, detector
from stages.align.knobs import Align
from stages.align.warp import centre_crop, similarity, warp

ALIGN = Align(device="cpu")


def test_the_largest_face_is_warped_to_the_template(portraits, faceless, photograph):
    mtcnn = detector(ALIGN)
    aligned = align_images([portraits[0], faceless, photograph], mtcnn)
    assert aligned.found.tolist() == [True, False, True]
    assert np.array_equal(aligned.images[1], centre_crop(faceless))
    assert aligned.scores[1] == 0
    assert np.isnan(aligned.landmarks[1]).all()
    points = mtcnn.detect([photograph])[0].landmarks[:1]
    assert np.array_equal(aligned.landmarks[2], points[0])
    matrix = similarity(points)[0]
    assert np.array_equal(aligned.images[2], warp(photograph, matrix))
    again = mtcnn.detect([aligned.images[2]])[0].landmarks[0]
    np.testing.assert_allclose(again, points[0] @ matrix[:, :2].T + matrix[:, 2], atol=3)


def test_no_images_are_aligned_to_none():
    aligned = align_images([], detector(ALIGN))
    assert aligned.images.shape == (0, 112, 112, 3)
    assert aligned.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"thresholds": (0.6, 0.7, 0.8)}, False),
        ({"factor": 0.5}, False),
        ({"min_face": 40}, False),
        ({"device": "auto"}, True),  # it comes to the CPU
        ({"codec": "jpeg", "missing": "keep", "ids_per_shard": 5}, True),  # the detector does not see them
    ],
)
def test_what_of_the_knobs_changes_a_detection(monkeypatch, change, same):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (detection(replace(ALIGN, **change)) == detection(ALIGN)) == same
