"""From the renderer to the labels that are trained on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from stages import synthesize
from stages.align import stage as align
from stages.images import Shards
from stages.store import write_shard
from stages.synthesize import Synthesize
from stages.train.data import FaceDataset
from stages.transfer.synface.method import Method
from stages.world import WORLD_RANGES
from stages.world.portraits import Portrait, Shot, photograph
from stages.world.zips import write_zip
from tests.transfer.synface.test_method import PARAMS

PEOPLE = (0, 2, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    write_shard(root / "data/filter.h5", {"identity": np.array(PEOPLE), "chosen": np.ones(3, bool)})
    pictures = (photograph(Portrait(WORLD_RANGES["source"] + one, (Shot(0),), "raster", 112, 0)) for one in PEOPLE)
    (root / "data/source").mkdir()
    write_zip(root / "data/source/subjects_0-4_1_imgs.zip", pictures, PEOPLE)
    return root


def test_the_shares_reach_the_training_set(root, monkeypatch, tmp_path):
    monkeypatch.setenv("R2R_CACHE", str(tmp_path))
    params = replace(PARAMS, synthesize=Synthesize(workers=1, ids_per_shard=2))
    synthesize.run(params, root)
    align.run(params, root)
    assert json.loads((root / "metrics/synthesize.json").read_text())["images"] == 12
    faces, method = Shards(root / "data/align"), Method(params, root)
    assert len(faces) > 6  # the detector may miss some
    for row in range(len(faces)):
        mixed, sample = method.mixtures(int(faces.identity[row])), int(faces.sample[row])
        assert faces.mixtures.partner[row] == mixed.partner[sample]
        assert faces.mixtures.ratio[row] == mixed.ratio[sample]
    labels, weights = FaceDataset(root / "data/align").soft
    np.testing.assert_array_equal(np.array(PEOPLE)[labels], np.stack([faces.identity, faces.mixtures.partner], 1))
    np.testing.assert_allclose(weights[:, 0], faces.mixtures.ratio)
