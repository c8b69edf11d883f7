import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from stages.transfer.unpaired import Schedule, frozen, translate


def test_the_rates_follow_the_steps_done_after_a_reload_as_well():
    def built():
        layer = nn.Linear(2, 2)
        optimisers = {"a": SGD([{"params": [layer.weight], "lr": 1.0}, {"params": [layer.bias], "lr": 4.0}])}
        return optimisers, Schedule(optimisers, lambda step: 0.5**step)

    optimisers, schedule = built()
    rates = []
    for _ in range(3):
        schedule.advance()
        rates.append([group["lr"] for group in optimisers["a"].param_groups])
    assert rates == [[1, 4], [0.5, 2], [0.25, 1]]

    again, other = built()
    again["a"].load_state_dict(optimisers["a"].state_dict())  # which holds the lowered rates
    other.load_state_dict(schedule.state_dict())
    other.advance()
    assert [group["lr"] for group in again["a"].param_groups] == [0.125, 0.5]


def test_gradients_pass_what_is_frozen():
    layer, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    layer.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="shapes"), frozen(layer):
        layer(layer(x).sum().backward() or torch.ones(1, 5))  # what follows fails, and learning goes on
    assert torch.equal(x.grad, layer.weight)
    assert layer.weight.grad is None
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (True, False)


@pytest.mark.parametrize("side", [(8, 12), (9, 11), (14, 5)])
def test_images_of_any_size_come_back_as_they_were(side):
    """Every level of 256 survives the way to [-1, 1] and back."""
    shown = np.random.default_rng(0).integers(0, 256, (5, *side, 3), dtype=np.uint8)
    seen = []

    def run(pixels, own):
        seen.append(tuple(pixels.shape))
        assert np.array_equal(own, shown[len(seen) - 1][None])
        assert pixels.abs().max() <= 1
        return pixels

    assert np.array_equal(translate(nn.Linear(1, 1), run, shown, 16), shown)
    assert seen == [(1, 3, -(-side[0] // 4) * 4, -(-side[1] // 4) * 4)] * 5  # one by one on a CPU


def test_only_images_are_taken():
    with pytest.raises(ValueError, match=r"\[n, h, w, 3\] uint8 RGB was expected"):
        translate(nn.Linear(1, 1), lambda pixels, _: pixels, np.zeros((2, 8, 8, 3)), 1)
