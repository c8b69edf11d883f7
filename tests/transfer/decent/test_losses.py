import math
import statistics

import pytest
import torch

from stages.transfer.decent.losses import density_variance, negative_log_likelihood


def test_likelihood_is_the_mean_of_layers_however_many_patches_they_have():
    layers = [torch.tensor([[1.0, 3.0]]), torch.tensor([[-2.0], [-4.0]])]
    assert negative_log_likelihood(layers).item() == pytest.approx(-(2 - 3) / 2)


def test_variance_by_loops():
    torch.manual_seed(0)
    source = [torch.randn(2, p, dtype=torch.float64) for p in (5, 3)]
    fake = [torch.randn(2, p, dtype=torch.float64) for p in (5, 3)]
    channels = (3, 128)
    layers = []
    for before, after, k in zip(source, fake, channels, strict=True):
        bits = [
            [(b - a) / k / math.log(2) for b, a in zip(*rows, strict=True)] for rows in zip(before, after, strict=True)
        ]
        layers.append(statistics.mean(statistics.variance([float(bit) for bit in row]) for row in bits))
    assert density_variance(source, fake, channels).item() == pytest.approx(statistics.mean(layers))


def test_a_change_by_one_factor_costs_nothing():
    """Each image by its own factor: the variance is within an image."""
    source = [torch.randn(2, 6, dtype=torch.float64)]
    fake = [source[0] + torch.tensor([[3.0], [-7.0]])]
    assert density_variance(source, fake, [4]).item() == pytest.approx(0, abs=1e-12)


def test_the_source_learns_nothing_from_the_variance():
    source, fake = torch.randn(1, 4, requires_grad=True), torch.randn(1, 4, requires_grad=True)
    density_variance([source], [fake], [2]).backward()
    assert source.grad is None
    assert fake.grad.any()
