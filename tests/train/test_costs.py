from pathlib import Path

import pytest
import torch

from stages.train import costs
from stages.train.knobs import Train
from stages.train.networks import create_on_meta


class Params:
    n_ids, images_per_id = 20, 10

    def __init__(self, **train):
        self.train = Train(**train)


class Machine:
    def seconds(self, flops, device, precision):
        return flops / {"fp32": 1e9, "bf16": 2e9}[precision]


def test_operations_are_those_of_the_layers():
    """iresnet_tiny's convolutions and its dense layer, by hand: 2 x multiply-adds."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += 2 * output[0].numel() * module.weight[0].numel()

    network = create_on_meta("iresnet_tiny").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 112, 112, device="meta"))
    assert costs.flops("iresnet_tiny") == total


def test_a_run_takes_three_times_its_forward_passes():
    work = costs.cost(Params(epochs=4), Path(), Machine())
    assert work.seconds == pytest.approx(3 * 4 * 200 * costs.flops("iresnet_tiny") / 1e9)
    assert costs.cost(Params(epochs=4, precision="bf16"), Path(), Machine()).seconds == pytest.approx(work.seconds / 2)


def test_memory_grows_with_the_batch_and_the_network():
    one, two = (costs.gpu_bytes(Params(batch_size=batch)) for batch in (64, 128))
    weights = 16 * sum(weight.numel() for weight in create_on_meta("iresnet_tiny").parameters())
    assert two - weights == pytest.approx(2 * (one - weights), abs=2)
    assert costs.gpu_bytes(Params(batch_size=64, precision="bf16")) == pytest.approx((one + weights) / 2, abs=2)
    assert costs.gpu_bytes(Params(backbone="iresnet18")) > 5 * one
