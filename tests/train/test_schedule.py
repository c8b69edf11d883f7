import math
from typing import get_args

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from stages.knobs import ParamsError
from stages.train.heads import MARGINS
from stages.train.knobs import Backbone, Head, Train
from stages.train.networks import BACKBONES, create_on_meta
from stages.train.schedule import learning_rate, parameter_groups


def torch_rates(make, epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(optimizer)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_multistep_is_torchs():
    train = Train(lr=0.1, epochs=26, schedule="multistep", milestones=(12, 20, 24))
    expected = torch_rates(lambda optimizer: MultiStepLR(optimizer, [12, 20, 24]), 26)
    assert [learning_rate(train, epoch) for epoch in range(26)] == pytest.approx(expected)


def test_cosine_is_torchs():
    train = Train(lr=0.1, epochs=20)
    expected = torch_rates(lambda optimizer: CosineAnnealingLR(optimizer, 20), 20)
    assert [learning_rate(train, epoch) for epoch in range(20)] == pytest.approx(expected)


def test_warm_up_rises_linearly_to_where_the_schedule_starts():
    train = Train(lr=0.4, epochs=10, warmup_epochs=2)
    assert [learning_rate(train, epoch) for epoch in (0, 0.5, 1, 2)] == pytest.approx([0, 0.1, 0.2, 0.4])
    assert learning_rate(train, 6) == pytest.approx(0.2)
    assert learning_rate(train, 10) == pytest.approx(0)
    assert math.isclose(learning_rate(train, 2 - 1e-9), learning_rate(train, 2), rel_tol=1e-6)


def test_no_weight_decay_on_batch_norms():
    network = create_on_meta("ir_18")
    decayed, spared = parameter_groups(network, 5e-4)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in decayed["params"] if p.dim() == 1} == {
        name
        for name in names.values()
        if name.endswith(("input_layer.2.weight", "res_layer.3.weight", "output_layer.3.bias"))
    }  # the slopes of the PReLUs and the bias of the linear layer
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_weight_decay_on_batch_norms_where_it_is_asked_for():
    groups = parameter_groups(create_on_meta("LResNet50E_IR"), 5e-4, decay_norms=True)
    assert [group["weight_decay"] for group in groups] == [5e-4, 5e-4]


def test_frozen_parameters_are_left_out():
    network = create_on_meta("iresnet_tiny")
    grouped = [p for group in parameter_groups(network, 5e-4) for p in group["params"]]
    assert len(grouped) == len(list(network.parameters())) - 1
    assert not any(p is network.features.weight for p in grouped)


def test_knobs_that_do_not_fit_each_other():
    with pytest.raises(ParamsError, match=r"train.warmup_epochs is 8.0: less than train.epochs = 8"):
        Train(warmup_epochs=8.0)
    with pytest.raises(ParamsError, match=r"train.interclass_filtering_threshold is of arcface and cosface"):
        Train(interclass_filtering_threshold=0.4)
    Train(head="cosface", interclass_filtering_threshold=0.4)


def test_the_knobs_name_every_network_and_every_head():
    assert set(get_args(Backbone)) == set(BACKBONES)
    assert set(get_args(Head)) == {"adaface", "ArcMarginProduct", *MARGINS}
