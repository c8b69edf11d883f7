"""VSAIT through the stage `fit`."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from stages import fit
from stages.store import StoreError
from stages.transfer.vsait.features import RandomFilters, VGG19Features
from stages.transfer.vsait.knobs import Knobs
from stages.transfer.vsait.learner import Learner, features_of
from stages.transfer.vsait.networks import VSAIT, load_official
from tests.transfer.staged import assert_killed_fit_goes_on_to_the_same_bytes, params, write_faces

SMALL = Knobs(
    steps=4, batch_size=2, load=40, crop=32, width=4, blocks=2, dimension=24, hidden=8, filters=4, size=0, device="cpu"
)
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    return write_faces(tmp_path)


def test_a_killed_run_goes_on_to_the_same_bytes(root, monkeypatch):
    assert_killed_fit_goes_on_to_the_same_bytes(root, params("vsait", **asdict(SMALL)), Learner, monkeypatch)
    table = np.genfromtxt(root / "plots/fit/fit.csv", delimiter=",", names=True)
    assert set(Learner.losses) < set(table.dtype.names)
    assert [path.name for path in (root / "data/fit").iterdir()] == ["vsait.ckpt"]


def test_the_directions_are_in_the_file_and_depend_on_the_seed(root):
    directions = []
    for seed in (0, 1):
        fit.run(params("vsait", seed, **asdict(SMALL)), root)
        directions.append(load_official(root / "data/fit/vsait.ckpt").lsh_feat.state_dict())
    assert not any(torch.equal(directions[0][f"{k}.weight"], directions[1][f"{k}.weight"]) for k in range(5))


def test_the_knobs_reach_the_training():
    learner = Learner(replace(SMALL, lr=3e-3, discriminator_lr=5e-3, vsa=2.0, halving=7), CPU)
    (generator,), (discriminator,) = learner.of_generator.param_groups, learner.of_discriminator.param_groups
    assert (generator["lr"], discriminator["lr"], learner.vsa) == (3e-3, 5e-3, 2.0)
    assert [learner.schedule.factor(step) for step in (6, 7, 13, 14)] == [1, 0.5, 0.5, 0.25]
    assert len(learner.network.g_net.encoder.net) == 5 + 1
    assert learner.network.d_net.net[0].net[0].conv.weight.shape == (8, 24, 1, 1)
    assert learner.features.channels == (4, 8, 16, 32, 32)


def test_official_defaults_are_the_official_sizes(monkeypatch):
    """The networks of the default knobs, on the meta device: the substitute's taps are as wide as VGG-19's."""
    made = Knobs()
    with torch.device("meta"):
        network, plain = VSAIT(made.width, made.blocks, made.dimension, made.hidden), VSAIT()
    assert [x.shape for x in network.state_dict().values()] == [x.shape for x in plain.state_dict().values()]
    monkeypatch.setattr(torch, "randn", lambda *shape, generator: torch.empty(shape, device="meta"))
    assert features_of(made).channels == (64, 128, 256, 512, 512)


def test_vgg_is_read_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "stages.transfer.vsait.learner.load_vgg19", lambda path: (path, VGG19Features(4))[1] if path.is_file() else None
    )
    assert isinstance(features_of(SMALL), RandomFilters)
    with pytest.raises(StoreError, match=r"one file \*\.pth was expected, but there is none"):
        features_of(replace(SMALL, vgg=str(tmp_path)))
    (tmp_path / "vgg19-dcbb9e9d.pth").touch()
    for named in (tmp_path, tmp_path / "vgg19-dcbb9e9d.pth"):
        learner = Learner(replace(SMALL, vgg=str(named)), CPU)
        assert isinstance(learner.features, VGG19Features)
        assert learner.network.lsh_feat[1].weight.shape == (24, 8, 8, 8)
    (tmp_path / "other.pth").touch()
    with pytest.raises(StoreError, match=r"there is other\.pth, vgg19-dcbb9e9d\.pth"):
        features_of(replace(SMALL, vgg=str(tmp_path)))


def test_contrast_is_in_the_hypervectors():
    """Half as much contrast is another hypervector: nothing else would keep a translation from saturating."""
    torch.manual_seed(0)
    learner = Learner(SMALL, CPU)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    one, half = learner.hypervectors(images), learner.hypervectors(images / 2)
    assert torch.cosine_similarity(one, half, dim=1).max() < 0.99
