"""The labelled people that stand for real ones in the embedded world's mixtures."""

import numpy as np

from stages.images import read_faces
from stages.tables import people
from stages.world import WORLD_RANGES


def test_people_are_labelled_aligned_and_nobody_elses(tmp_path):
    people.make_people(tmp_path, ids=2, images=1)
    faces = read_faces(tmp_path / people.FILE)
    assert (faces.identity.tolist(), faces.sample.tolist()) == ([0, 1], [0, 0])
    images = [faces.image(row) for row in range(2)]
    assert [image.shape for image in images] == [(112, 112, 3)] * 2
    assert np.abs(images[0].astype(int) - images[1]).mean() > 10
    assert WORLD_RANGES["target"] + 10**6 < people.FIRST < WORLD_RANGES["benchmarks"] - 10**6
