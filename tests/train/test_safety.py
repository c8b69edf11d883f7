import numpy as np
import pytest
import torch
from torch import nn

from stages.train.knobs import Train
from stages.train.safety import fault, gradient_norm


def curve(norms, loss=5.0):
    return {"norm": np.array(norms, np.float32), "loss": np.full(len(norms), loss, np.float32)}


def test_a_gradient_explodes_beside_those_of_the_steps_before():
    calm = [1.0] * 90 + [50.0] * 10
    assert fault(Train(), curve([*calm, 999]), 100) is None
    assert fault(Train(), curve([*calm, 1001]), 100) == (
        "the gradient's norm is 1e+03, 1000 times that of the steps before,"
    )
    assert fault(Train(clip=5.0), curve([*calm, 1001]), 100) is None  # it was made short
    assert fault(Train(), curve([*calm[1:], 1001]), 99) is None  # too few to tell by


def test_a_head_is_dead_that_has_much_to_teach_and_no_gradient():
    assert "the head is dead: the loss is 5 and its gradient 0" in fault(Train(), curve([1, 0]), 1)
    assert fault(Train(), curve([1, 0], loss=0.0), 1) is None  # all is learned
    assert fault(Train(precision="fp16"), curve([1, 0]), 1) is None  # a step that was left out


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_the_norm_is_of_all_gradients_before_they_are_clipped(clip):
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    network[0].bias.requires_grad = False
    network(torch.ones(1, 3)).sum().backward()
    before = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    expected = sum(float(value) ** 2 for gradient in before for value in gradient.flatten()) ** 0.5
    assert gradient_norm(network, clip).item() == pytest.approx(expected, rel=1e-6)
    after = [p.grad for p in network.parameters() if p.grad is not None]
    factor = clip / expected if clip else 1.0
    for first, second in zip(before, after, strict=True):
        torch.testing.assert_close(second, first * factor, rtol=1e-5, atol=1e-6)
