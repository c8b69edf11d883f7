"""UNSB's networks' names, its times, moves and losses, against the listings and loops in float64."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.transfer.unsb.bridge import Bridge
from stages.transfer.unsb.losses import bridge_loss, energy_loss, patch_nce
from stages.transfer.unsb.networks import Discriminator, Generator, PatchProjector, channels, sinusoids
from tests.transfer.official import described, listing, randomised


@pytest.mark.parametrize(
    ("name", "make", "numbers"),
    [
        ("unsb_netG", Generator, 14_684_419),
        ("unsb_netG", lambda: Generator(corrected=True), 14_684_419),
        ("unsb_netD", Discriminator, 3_143_041),
        ("unsb_netE", lambda: Discriminator(channels=12), 3_152_257),
    ],
)
def test_official_names_shapes_and_dtypes(name, make, numbers):
    with torch.device("meta"):
        network = make()
    assert list(described(network).items()) == list(listing(name).items())
    assert sum(parameter.numel() for parameter in network.parameters()) == numbers


def test_official_layers():
    with torch.device("meta"):
        generator, projector = Generator(), PatchProjector([3, 128, 256, 256, 256])
        images, t, z = torch.empty(1, 3, 256, 256), torch.zeros(1, dtype=torch.int64), torch.empty(1, 256)
        features = generator.encode(images, t, z)
        assert Discriminator()(images, t).shape == (1, 1, 30, 30)
    shapes = [(3, 262), (128, 256), (256, 128), (256, 64), (256, 64)]
    assert [(x.shape[1], x.shape[2]) for x in features] == shapes
    assert channels(generator) == [3, 128, 256, 256, 256]
    assert {name: list(value.shape) for name, value in projector.named_parameters() if name.startswith("mlp_1")} == {
        "mlp_1.0.weight": [256, 128],
        "mlp_1.0.bias": [256],
        "mlp_1.2.weight": [256, 256],
        "mlp_1.2.bias": [256],
    }


def test_the_official_fault_and_the_corrected_block():
    """The faulty generator sees the noise and no step, and 58 of its 114 tensors are idle; the other sees both."""
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    z = torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(1))
    early, late = torch.zeros(2, dtype=torch.int64), torch.full((2,), 4)
    for corrected in (False, True):
        network = randomised(Generator(4, 9, corrected))
        assert torch.equal(network(x, early, z[0]), network(x, late, z[0])) == (not corrected)
        assert not torch.equal(network(x, early, z[0]), network(x, early, z[1]))
        network(x, late, z[0]).sum().backward()
        idle = [name for name, weight in network.named_parameters() if weight.grad is None]
        assert len(idle) == (9 * 2 if corrected else 58)  # `style` is used by neither
        assert corrected == (not any("conv_block" in name or "time" in name.lower() for name in idle))


def test_the_generators_block_layer_by_layer():
    """The official order: norm of the input, scale and shift by the noise, ReLU, mirrored border, convolution, norm."""
    torch.manual_seed(0)
    block = randomised(Generator(4, 2)).double().model_res[0]
    x, time, z = (torch.randn(2, 16, *side, dtype=torch.float64) for side in ((5, 6), (), ()))

    def normed(x):
        return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    style = z @ block.adaptive.style_net.weight.T + block.adaptive.style_net.bias
    hidden = style[:, :16, None, None] * normed(x) + style[:, 16:, None, None]
    convolution = block.conv_fin[2]
    hidden = F.conv2d(F.pad(hidden.relu(), (1, 1, 1, 1), "reflect"), convolution.weight, convolution.bias)
    torch.testing.assert_close(block(x, time, z), x + normed(hidden), rtol=0, atol=1e-10)


def test_the_discriminator_layer_by_layer():
    network = randomised(Discriminator(4, 6))
    x, other = torch.randn(2, 2, 3, 32, 32)
    t = torch.tensor([0, 3])
    embedded = sinusoids(t, 16)
    for layer in (network.t_embed.main[0], network.t_embed.main[2]):
        embedded = F.leaky_relu(embedded @ layer.weight.T + layer.bias, 0.2)
    out = torch.cat([x, other], 1)
    for number, block in enumerate(network.model_main):
        shift = embedded @ block.dense.weight.T + block.dense.bias
        out = F.conv2d(out, block.conv1.weight, block.conv1.bias, padding=1) + shift[..., None, None]
        if number:
            out = (out - out.mean((2, 3), keepdim=True)) / (out.var((2, 3), False, keepdim=True) + 1e-5).sqrt()
        out = F.leaky_relu(out, 0.2)
        if number < 3:
            out = F.conv2d(F.pad(out, (1, 1, 1, 1), "reflect"), block.down.filt, stride=2, groups=out.shape[1])
    out = F.conv2d(out, network.final_conv.weight, network.final_conv.bias, padding=1)
    torch.testing.assert_close(network(x, t, other), out, rtol=0, atol=1e-5)


def test_sinusoids_by_hand():
    wanted = [[f(t * 10_000 ** (-i / 3)) for f in (math.sin, math.cos) for i in range(4)] for t in (0, 1, 4)]
    np.testing.assert_allclose(sinusoids(torch.tensor([0, 1, 4]), 8), wanted, atol=1e-6)


def test_official_times():
    np.testing.assert_allclose(Bridge().times(), [0, 0.5, 0.74, 0.86, 0.94, 1], atol=0.005)
    np.testing.assert_allclose(Bridge().times()[2:5], [0.5 + s / (2 * 25 / 12) for s in (1, 3 / 2, 11 / 6)])


def test_a_walk_against_a_loop():
    """Each move goes the official part of the way, with a Brownian bridge's noise, tau of its variance."""
    bridge, noises, ends = Bridge(5, 0.3), torch.randn(4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    times, x = bridge.times().tolist(), 1.7
    at = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
    for t in range(1, 5):
        gap, left = times[t] - times[t - 1], 1 - times[t - 1]
        sigma = math.sqrt(gap * (1 - gap / left) * 0.3)
        x = (1 - gap / left) * x + gap / left * float(ends[t - 1]) + sigma * float(noises[t - 1])
        at = bridge.move(at, ends[t - 1], t, noises[t - 1])
        assert float(at) == pytest.approx(x, abs=1e-12)


def test_losses_against_loops():
    torch.manual_seed(0)
    own, cross = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64).unbind(1)[:2]
    x, fake = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    log_sum = math.log(sum(math.exp(value) for value in cross.flatten().tolist()))
    mean = sum(own.flatten().tolist()) / own.numel()
    assert float(energy_loss(own, cross)) == pytest.approx(-mean + log_sum + log_sum**2, abs=1e-12)
    distance = sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), fake.flatten().tolist(), strict=True)) / 96
    wanted = -3 / 5 * 0.01 * (mean - log_sum) + 0.01 * distance
    assert float(bridge_loss(own, cross, x, fake, 3 / 5, 0.01)) == pytest.approx(wanted, abs=1e-12)


def test_patch_contrast_against_a_loop():
    """Negatives are of the patch's own image only, whatever stands beside it in the batch."""
    torch.manual_seed(0)
    query, key = F.normalize(torch.randn(2, 3, 4, 5, dtype=torch.float64), dim=3).unbind(0)
    losses = []
    for image in range(3):
        for place in range(4):
            logits = [float(query[image, place] @ key[image, other]) / 0.07 for other in range(4)]
            others = [logit if other != place else -10 / 0.07 for other, logit in enumerate(logits)]
            losses.append(math.log(sum(map(math.exp, [logits[place], *others]))) - logits[place])
    assert float(patch_nce(query, key)) == pytest.approx(sum(losses) / 12, abs=1e-12)
    key.requires_grad_()
    assert not patch_nce(query, key).requires_grad
