"""The prior that ships with the project gives a rendered face back as itself, and says how it was made."""

import json
from pathlib import Path

import numpy as np
import pytest

from pretrain.codeformer import STRONG, Training, degrade
from stages.transfer.codeformer import Restoration, apply, load_codeformer
from stages.transfer.codeformer.networks import sizes_in
from stages.world import WORLD_RANGES, build_head, render, sample_scene, sample_traits

PRIOR = Path(__file__).parents[3] / "stages/transfer/codeformer/prior"


@pytest.fixture(scope="module")
def faces():
    """Three people whom the prior has not seen, in the camera look."""
    first = WORLD_RANGES["target"]
    return np.stack(
        [render(build_head(sample_traits(first + n)), sample_scene(first + n, 0), "camera", 112) for n in range(3)]
    )


def distance(one, other):
    return float(np.abs(one.astype(float) - other).mean())


def test_it_gives_a_face_back_and_more_of_it_with_w(faces):
    network = load_codeformer(PRIOR / "codeformer.pth")
    off = [distance(apply(network, faces, Restoration(w=w)), faces) for w in (0.0, 0.5, 1.0)]
    assert off[0] > off[1] > off[2]
    assert off[1] < 0.5 * distance(faces, faces[[1, 2, 0]])


def test_it_restores_what_was_lost(faces):
    network = load_codeformer(PRIOR / "codeformer.pth")
    noisy = STRONG | {"noise": (20, 20)}
    poor = np.stack([degrade(face, noisy, np.random.default_rng(n)) for n, face in enumerate(faces)])
    assert distance(apply(network, poor, Restoration(w=0.5)), faces) < distance(poor, faces)


def test_it_is_of_the_sizes_of_the_script():
    assert sizes_in(PRIOR / "codeformer.pth") == Training().codeformer
    told = json.loads((PRIOR / "training.json").read_text())["training"]
    assert told == json.loads(json.dumps(vars(Training())))
