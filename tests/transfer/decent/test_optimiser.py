import copy
import math

import pytest
import torch

from stages.transfer.decent.optimiser import AveragingAdam


def test_steps_by_loops():
    """Adam with AMSGrad, number by number in Python, and the average from zero."""
    torch.manual_seed(0)
    gradients = torch.randn(30, 3, dtype=torch.float64) * torch.tensor([10.0, 1.0, 1e-8])
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimiser = AveragingAdam([weight], lr=0.1)
    wanted, average = weight.tolist(), [0.0] * 3
    first, second, largest = [0.0] * 3, [0.0] * 3, [0.0] * 3
    for step, gradient in enumerate(gradients, 1):
        weight.grad = gradient.clone()
        optimiser.step()
        for k, g in enumerate(gradient.tolist()):
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g * g
            largest[k] = max(largest[k], second[k])
            size = 0.1 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            wanted[k] -= size * first[k] / (math.sqrt(largest[k]) + 1e-8)
            average[k] = 0.998 * average[k] + 0.002 * wanted[k]
        assert weight.tolist() == pytest.approx(wanted)
    with optimiser.averaged():
        assert weight.tolist() == pytest.approx(average)
    assert weight.tolist() == pytest.approx(wanted)


def test_official_hyperparameters():
    (group,) = AveragingAdam([torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert {name: value for name, value in group.items() if name != "params"} == {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "polyak": 0.998,
    }


def test_averages_are_taken_back_after_an_error_and_weights_without_gradients_stay():
    learned, still = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimiser = AveragingAdam([learned, still])
    learned.grad = torch.ones(2)
    optimiser.step()
    after = learned.detach().clone()
    with optimiser.averaged():
        assert not torch.equal(learned, after)
    with pytest.raises(RuntimeError, match="shape"), optimiser.averaged():
        learned @ torch.ones(5, 5)
    assert torch.equal(learned, after)
    assert torch.equal(still, torch.ones(2))


def test_state_goes_on_in_another_optimiser():
    def stepped(optimiser, weight, steps):
        for step in steps:
            weight.grad = torch.full((2,), float(step - 1))
            optimiser.step()

    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    one, two = (AveragingAdam([weight]) for weight in weights)
    stepped(one, weights[0], range(3))
    weights[1].data.copy_(weights[0].data)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for optimiser, weight in ((one, weights[0]), (two, weights[1])):
        stepped(optimiser, weight, range(3, 6))
    assert torch.equal(weights[0], weights[1])
    with one.averaged(), two.averaged():
        assert torch.equal(weights[0], weights[1])
