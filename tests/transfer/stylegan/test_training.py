import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stages.transfer.stylegan.encoders import E4EEncoder
from stages.transfer.stylegan.networks import Discriminator
from stages.transfer.stylegan.training import (
    adam,
    average,
    discriminator_step,
    draw_noise,
    draw_styles,
    encoder_step,
    generator_step,
    gradient_penalty,
    path_lengths,
)
from tests.transfer.stylegan.tiny import encoder, generator


def critic():
    torch.manual_seed(1)
    return Discriminator(16, 64, 8)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def same(before, network):
    return all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_official_optimiser():
    optimiser = adam(critic(), 16)
    assert optimiser.defaults["lr"] == pytest.approx(0.002 * 16 / 17)
    assert optimiser.defaults["betas"] == pytest.approx((0, 0.99 ** (16 / 17)))


def test_styles_are_mixed_at_one_layer():
    network = generator()
    plain = draw_styles(network, 3, mixing=0, draw=draw())
    assert torch.equal(plain, plain[:, :1].expand(-1, 6, -1))
    layers = set()
    for seed in range(20):
        mixed = draw_styles(network, 3, mixing=1, draw=draw(seed))
        changes = [layer for layer in range(1, 6) if not torch.equal(mixed[:, layer], mixed[:, layer - 1])]
        assert len(changes) == 1
        layers.update(changes)
    assert layers == {1, 2, 3, 4, 5}


def test_the_logistic_losses_written_out():
    network, judge, photographs = generator(), critic(), torch.rand(4, 3, 16, 16) * 2 - 1
    random = draw()
    with torch.no_grad():
        painted = network.synthesis(draw_styles(network, 4, draw=random), draw_noise(network, 4, random))
        fake, real = judge(painted).double(), judge(photographs).double()
    before = copy.deepcopy(network.state_dict()), copy.deepcopy(judge.state_dict())
    losses = generator_step(network, copy.deepcopy(judge), adam(network, 4), 4, 1, torch.zeros(()), draw=draw())
    assert losses == {"generator": pytest.approx(float((1 + (-fake).exp()).log().mean()), rel=1e-5)}
    assert not same(before[0], network)
    network.load_state_dict(before[0])
    losses = discriminator_step(network, judge, adam(judge, 16), photographs, 1, draw=draw())
    expected = (1 + fake.exp()).log().mean() + (1 + (-real).exp()).log().mean()
    assert losses == {"discriminator": pytest.approx(float(expected), rel=1e-5)}
    assert same(before[0], network)
    assert not same(before[1], judge)


def test_a_step_moves_only_its_own_network():
    network, judge = generator(), critic()
    before = copy.deepcopy(judge.state_dict())
    generator_step(network, judge, adam(network, 4), 4, 0, torch.zeros(()))
    assert same(before, judge)
    assert all(parameter.grad is None for parameter in judge.parameters())


def test_without_its_weight_the_path_is_not_measured():
    network, length = generator(), torch.zeros(())
    assert "path" not in generator_step(network, critic(), adam(network, 4), 2, 0, length, weight=0)
    assert float(length) == 0


@pytest.mark.parametrize(("step", "there"), [(0, True), (1, False), (4, True), (16, True)])
def test_regularisation_is_lazy(step, there):
    network, judge, length = generator(), critic(), torch.zeros(())
    losses = generator_step(network, judge, adam(network, 4), 2, step, length)
    assert ("path" in losses) == there
    assert (float(length) > 0) == there
    losses = discriminator_step(network, judge, adam(judge, 16), torch.zeros(2, 3, 16, 16), step)
    assert ("r1" in losses) == (step % 16 == 0)


def test_r1_in_closed_form():
    class Linear(nn.Module):
        def forward(self, images):
            return (images * torch.arange(12.0).view(3, 2, 2)).sum((1, 2, 3)) * images[:, 0, 0, 1]

    images = torch.zeros(2, 3, 2, 2)
    images[:, 0, 0, 1] = torch.tensor([1.0, 2.0])
    # f = x_1 sum k x_k with only x_1 not 0: df/dx_k = k x_1, and x_1 once more for k = 1
    expected = [sum((k * x) ** 2 for k in range(12)) - x**2 + (2 * x) ** 2 for x in (1, 2)]
    assert float(gradient_penalty(Linear(), images).detach()) == pytest.approx(sum(expected) / 2)


def test_path_lengths_by_differences():
    network = generator().double()
    styles = draw_styles(network, 2, 0, draw()).detach().double().requires_grad_()
    lengths = path_lengths(network, styles, draw(3)).detach()
    random = draw(3)
    noise = draw_noise(network, 2, random)
    direction = torch.randn(2, 3, 16, 16, generator=random).double() / 16
    gradient, step = torch.zeros_like(styles), 1e-6
    with torch.no_grad():
        for layer in range(6):
            for axis in range(8):
                moved = []
                for sign in (1, -1):
                    other = styles.clone()
                    other[:, layer, axis] += sign * step
                    moved.append((network.synthesis(other, noise) * direction).sum((1, 2, 3)))
                gradient[:, layer, axis] = (moved[0] - moved[1]) / (2 * step)
    torch.testing.assert_close(lengths, (gradient**2).sum(2).mean(1).sqrt(), rtol=1e-5, atol=1e-8)


def test_the_average_has_the_official_half_life():
    mean, network = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.zeros_(mean.weight)
    nn.init.ones_(network.weight)
    for _ in range(313):
        average(mean, network, 32)
    assert float(mean.weight.detach()) == pytest.approx(0.5, abs=0.001)


def test_the_encoder_learns_to_paint_again():
    network, reader = generator(), encoder(E4EEncoder).train()
    torch.manual_seed(0)
    with torch.no_grad():
        photographs = F.interpolate(network(torch.randn(4, 8)), 32)
    before = copy.deepcopy(network.state_dict())
    optimiser = torch.optim.Adam(reader.parameters(), 1e-2)

    def perceptual(a, b):
        return (a - b).abs().mean()

    with torch.no_grad():
        styles = copy.deepcopy(reader)(photographs) + 0.5
        painted = network.synthesis(styles)
        added = sum(float((styles[n, i] - styles[n, 0]).norm()) for n in range(4) for i in range(1, 6)) / 4
    mean = torch.full((8,), 0.5)
    losses = [
        encoder_step(reader, network, mean, optimiser, photographs, perceptual, 2e-4 if number == 0 else 0)
        for number in range(40)
    ]
    small = photographs[..., ::2, ::2]
    assert losses[0]["distance"] == pytest.approx(float((painted - small).square().mean()), rel=1e-3)
    assert losses[0]["perceptual"] == pytest.approx(0.8 * float((painted - small).abs().mean()), rel=1e-3)
    assert losses[0]["delta"] == pytest.approx(2e-4 * added, rel=1e-3)
    assert losses[1]["delta"] == 0
    assert losses[-1]["distance"] < 0.6 * losses[0]["distance"]
    assert same(before, network)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_generator_that_the_optimiser_has_learns_with_its_encoder():
    network, reader = generator(), encoder(E4EEncoder).train()
    before = copy.deepcopy(network.state_dict()), copy.deepcopy(reader.state_dict())
    optimiser = torch.optim.Adam([*network.parameters(), *reader.parameters()], 1e-3)
    photographs = torch.rand(2, 3, 32, 32, generator=draw()) * 2 - 1
    encoder_step(reader, network, torch.zeros(8), optimiser, photographs, lambda a, b: (a - b).abs().mean())
    assert not same(before[0], network)
    assert not same(before[1], reader)
    assert all(
        torch.equal(value, before[0][name]) for name, value in network.state_dict().items() if name.startswith("style.")
    )
