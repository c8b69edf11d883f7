from pathlib import Path

import pytest
import torch

from bench.train import head_mb
from stages.train import costs
from stages.train.knobs import Real, Train
from stages.train.networks import create_on_meta
from tests.train.conftest import made_up_people


class Params:
    n_ids, images_per_id = 20, 10

    def __init__(self, real=None, **train):
        self.train, self.real = Train(**train), real or Real()


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
    network = create_on_meta("iresnet_tiny")
    weights = 4 * 20 * 3 * network.embedding + 16 * sum(weight.numel() for weight in network.parameters())
    assert two - weights == pytest.approx(2 * (one - weights), abs=2)
    assert costs.gpu_bytes(Params(batch_size=64, precision="bf16")) == pytest.approx((one + weights) / 2, abs=3e4)
    assert costs.gpu_bytes(Params(backbone="iresnet18")) > 5 * one


def test_a_head_takes_what_its_bench_measures(monkeypatch):
    monkeypatch.setattr(Params, "n_ids", 87_000)
    few, many = (costs.gpu_bytes(Params(backbone="iresnet18", batch_size=128, sample_rate=rate)) for rate in (0.1, 1.0))
    monkeypatch.setattr(Params, "n_ids", 0)
    without = costs.gpu_bytes(Params(backbone="iresnet18", batch_size=128))
    for rate, found in ((1.0, many - without), (0.1, few - without)):
        assert found / 2**20 == pytest.approx(head_mb(87_000, rate), rel=0.15)


def test_an_epoch_shows_all_sets_by_their_weights(tmp_path, write_aligned):
    for name in ("data/align", "more", "real"):
        write_aligned(tmp_path / name, made_up_people(range(4), range(3)))
    params = Params(Real("real", 2, 3.0), second="more", weights=(1.0, 0.5, 1.0))
    assert costs.shown(params, tmp_path) == 200 + 0.5 * 12 + 3 * 6
    assert costs.shown(Params(data="more"), tmp_path) == 12
    assert costs.shown(Params(Real("real")), tmp_path) == 200
