"""The density estimators, their losses and their optimiser, against autograd, loops and closed forms in float64."""

import math

import pytest
import torch

from stages.transfer.cut import ResnetGenerator
from stages.transfer.decent.losses import density_variance, negative_log_likelihood
from stages.transfer.decent.networks import BNAFModel, PatchDensityEstimator, channels
from stages.transfer.decent.optimiser import AveragingAdam
from tests.transfer.official import described, listing, randomised


def test_official_names_shapes_and_dtypes():
    with torch.device("meta"):
        assert list(described(BNAFModel(64)).items()) == list(listing("decent_bnaf64").items())
        estimator = PatchDensityEstimator(channels(ResnetGenerator()))
        numbers = [sum(p.numel() for p in BNAFModel(k).parameters()) for k in (3, 128, 256)]
    assert numbers == [246, 330_496, 1_316_352]
    names = list(described(estimator))
    assert names[:2] == ["initialized", "flow_0.model.0.0._weight"]
    assert {name.split(".")[0] for name in names} == {"initialized", *(f"flow_{layer}" for layer in range(5))}


def test_masks_are_of_the_blocks():
    """The i-th of three features, with two units each, sees itself by `mask_d`, and those before it by `mask_o`."""
    wide, _, narrow = BNAFModel(3, 2).model[0]
    for layer, inputs, outputs in ((wide, 1, 2), (narrow, 2, 1)):
        for row in range(3 * outputs):
            for column in range(3 * inputs):
                own, seen = row // outputs, column // inputs
                assert layer.mask_d[row, column] == (seen == own)
                assert layer.mask_o[row, column] == (seen < own)
                assert bool(layer._weight[row, column]) == (seen <= own)


def test_log_density_is_the_normal_ones_by_the_jacobian_of_the_flow():
    torch.manual_seed(0)
    flow = randomised(BNAFModel(4, 3)).double()
    for name, mask in BNAFModel(4, 3).named_buffers():  # which are not random
        flow.get_buffer(name).copy_(mask)
    x = torch.randn(5, 4, dtype=torch.float64)
    for row, density in zip(x, flow.log_probs(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda row: flow.model(row[None])[0][0], row)
        assert not jacobian.triu(1).any()
        assert (jacobian.diagonal() > 0).all()
        y = flow.model(row[None])[0][0].detach()
        normal = sum(-(float(value) ** 2) / 2 - math.log(2 * math.pi) / 2 for value in y)
        assert float(density.detach()) == pytest.approx(normal + float(jacobian.det().log()), abs=1e-9)


def test_a_flow_learns_where_its_vectors_lie():
    """The cross-entropy comes near the entropy of a skewed normal distribution, its lower bound."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.0], [0.8, 0.3]])
    torch.manual_seed(0)
    flow = BNAFModel(2, 10)
    optimiser = AveragingAdam(flow.parameters(), 0.02, polyak=0.95)
    for _ in range(300):
        x = torch.randn(256, 2, generator=generator) @ mix.T
        optimiser.zero_grad()
        (-flow.log_probs(x).mean()).backward()
        optimiser.step()
    x = torch.randn(4096, 2, generator=generator) @ mix.T
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)
    with optimiser.averaged(), torch.no_grad():
        assert -float(flow.log_probs(x).mean()) == pytest.approx(entropy, abs=0.1)


def test_losses_against_loops():
    torch.manual_seed(0)
    source, fake = ([torch.randn(2, p, dtype=torch.float64) for p in (5, 3)] for _ in range(2))
    layers = []
    for before, after, k in zip(source, fake, (3, 16), strict=True):
        images = []
        for b, a in zip(before.tolist(), after.tolist(), strict=True):
            bits = [(x - y) / k / math.log(2) for x, y in zip(b, a, strict=True)]
            mean = sum(bits) / len(bits)
            images.append(sum((bit - mean) ** 2 for bit in bits) / (len(bits) - 1))
        layers.append(sum(images) / 2)
    assert float(density_variance(source, fake, (3, 16))) == pytest.approx(sum(layers) / 2, abs=1e-12)
    means = [sum(layer.flatten().tolist()) / layer.numel() for layer in source]
    assert float(negative_log_likelihood(source)) == pytest.approx(-sum(means) / 2, abs=1e-12)


def test_optimiser_against_a_loop():
    """The official formulas for one weight: AMSGrad, eps outside of the correction, an average that begins at 0."""
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimiser = AveragingAdam([weight], lr=0.1, polyak=0.9)
    x, m, v, largest, average = 2.0, 0.0, 0.0, 0.0, 0.0
    for step, slope in enumerate([3.0, -0.2, 0.1, 0.1], 1):
        optimiser.zero_grad()
        (weight * slope).sum().backward()
        optimiser.step()
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        largest = max(largest, v)
        x -= 0.1 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step) * m / (math.sqrt(largest) + 1e-8)
        average = 0.9 * average + 0.1 * x
        assert float(weight.detach()) == pytest.approx(x, abs=1e-12)
    with optimiser.averaged():
        assert float(weight.detach()) == pytest.approx(average, abs=1e-12)
    assert float(weight.detach()) == pytest.approx(x, abs=1e-12)
