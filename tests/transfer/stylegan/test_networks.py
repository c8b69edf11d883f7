from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import signal
from torch.nn import functional as F

from stages.transfer.stylegan.networks import (
    Discriminator,
    EqualConv2d,
    EqualLinear,
    Generator,
    LeakyBias,
    ModulatedConv2d,
    PixelNorm,
    Resample,
    channels_of,
    upfirdn2d,
)
from tests.transfer.official import described, listing, randomised
from tests.transfer.stylegan.tiny import SIZES, generator

BINOMIAL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


@pytest.mark.parametrize(("name", "size"), [("rosinality_256", 256), ("rosinality_g_ema_1024", 1024)])
def test_official_names_shapes_and_dtypes(name, size):
    with torch.device("meta"):
        network = Generator(size)
    assert described(network) == listing(name)
    assert network.styles == {256: 14, 1024: 18}[size]
    assert network.synthesis(torch.zeros(2, network.styles, 512, device="meta")).shape == (2, 3, size, size)


def test_official_discriminator():
    """Names and shapes of rosinality's `Discriminator`, read off its constructor."""
    with torch.device("meta"):
        network = Discriminator(256)
        shapes = {name: shape for name, (shape, _) in described(network).items()}
        assert network(torch.zeros(8, 3, 256, 256)).shape == (8, 1)
    widths = [128, 256, 512, 512, 512, 512, 512]
    expected = {"convs.0.0.weight": (128, 3, 1, 1), "convs.0.1.bias": (128,)}
    for number, (channels, width) in enumerate(pairwise(widths), 1):
        expected |= {
            f"convs.{number}.conv1.0.weight": (channels, channels, 3, 3),
            f"convs.{number}.conv1.1.bias": (channels,),
            f"convs.{number}.conv2.0.kernel": (4, 4),
            f"convs.{number}.conv2.1.weight": (width, channels, 3, 3),
            f"convs.{number}.conv2.2.bias": (width,),
            f"convs.{number}.skip.0.kernel": (4, 4),
            f"convs.{number}.skip.1.weight": (width, channels, 1, 1),
        }
    expected |= {"final_conv.0.weight": (512, 513, 3, 3), "final_conv.1.bias": (512,)}
    expected |= {"final_linear.0.weight": (512, 8192), "final_linear.0.bias": (512,)}
    expected |= {"final_linear.1.weight": (1, 512), "final_linear.1.bias": (1,)}
    assert shapes == expected


def test_channels():
    assert channels_of(1024, 32768, 512) == dict(
        zip([4, 8, 16, 32, 64, 128, 256, 512, 1024], [512] * 5 + [256, 128, 64, 32], strict=True)
    )
    for size in (4, 96):
        with pytest.raises(ValueError, match="power of two"):
            channels_of(size, 32768, 512)


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("pad", [(0, 0), (2, 1), (1, 3), (-1, 2)])
def test_upfirdn_is_scipys_in_both_directions(up, down, pad):
    rng = np.random.default_rng(0)
    x, taps = rng.normal(size=(2, 3, 6, 7)), (rng.normal(size=4), rng.normal(size=4))
    out = upfirdn2d(torch.from_numpy(x), torch.from_numpy(np.outer(*taps)), up, down, pad)
    expected = x
    for axis, h in zip((2, 3), taps, strict=True):
        full = np.apply_along_axis(lambda row, h=h: signal.upfirdn(h, row, up), axis, expected)
        full = np.moveaxis(full, axis, 0)
        length = expected.shape[axis] * up + sum(pad) - 4 + 1
        full = np.concatenate([full, np.zeros((9, *full.shape[1:]))])  # upfirdn stops at the last sample
        first = 3 - pad[0]
        full = np.concatenate([np.zeros((max(-first, 0), *full.shape[1:])), full[max(first, 0) :]])
        expected = np.moveaxis(full[:length:down], 0, axis)
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_the_filter_keeps_the_mean():
    flat = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(Resample((2, 1), up=2, gain=2)(flat)[..., 3:-3, 3:-3], torch.ones(1, 1, 10, 10))
    np.testing.assert_allclose(Resample((1, 1), gain=2).kernel, 4 * BINOMIAL)
    np.testing.assert_allclose(Resample((1, 1)).kernel, BINOMIAL)


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_equalised_linear(rate):
    torch.manual_seed(0)
    layer = EqualLinear(64, 512, bias=2.0, rate=rate)
    assert float(layer.weight.detach().std()) == pytest.approx(1 / rate, rel=0.02)
    x = torch.randn(256, 64)
    out = layer(x)
    torch.testing.assert_close(out, x @ layer.weight.T * rate / 8 + 2 * rate)
    assert float(out.detach().var(0).mean()) == pytest.approx(1, rel=0.05)
    active = EqualLinear(64, 512, rate=rate, activate=True)
    y = x @ active.weight.T * rate / 8
    torch.testing.assert_close(active(x), 2**0.5 * torch.where(y > 0, y, 0.2 * y))
    assert float(active(x).detach().square().mean()) == pytest.approx(1.04, rel=0.05)


def test_equalised_convolution_and_activation():
    torch.manual_seed(0)
    layer = EqualConv2d(16, 64, 3, padding=1)
    x = torch.randn(4, 16, 12, 12)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight / 12, padding=1))
    assert float(layer(x)[..., 1:-1, 1:-1].detach().var()) == pytest.approx(1, rel=0.1)
    bias = LeakyBias(3)
    bias.bias.data = torch.tensor([-1.0, 0.0, 2.0])
    np.testing.assert_allclose(
        bias(torch.zeros(1, 3, 1, 1)).detach().flatten(), [-0.2 * 2**0.5, 0, 2 * 2**0.5], rtol=1e-6
    )
    z = torch.randn(5, 8)
    torch.testing.assert_close(PixelNorm()(z).square().mean(1), torch.ones(5))


def modulated(layer, x, style):
    """One sample at a time, the weights modulated as the papers have it, convolved by scipy: float64."""
    outs = []
    weight = layer.weight[0].detach().numpy() / np.sqrt(layer.weight[0, 0].numel())
    affine, bias = layer.modulation.weight.detach().numpy(), layer.modulation.bias.detach().numpy()
    for sample, s in zip(x, style, strict=True):
        w = weight * (affine @ s / np.sqrt(len(s)) + bias)[None, :, None, None]
        if layer.demodulate:
            w = w / np.sqrt((w**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        rows = []
        for row in w:
            total = 0
            for channel, kernel in zip(sample, row, strict=True):
                if layer.up:
                    wide = np.zeros((2 * len(channel) - 1, 2 * len(channel[0]) - 1))
                    wide[::2, ::2] = channel
                    total = total + signal.convolve2d(wide, kernel)
                else:
                    total = total + signal.correlate2d(channel, kernel, "same")
            rows.append(signal.convolve2d(np.pad(total, 1), 4 * BINOMIAL, "valid") if layer.up else total)
        outs.append(rows)
    return np.array(outs)


@pytest.mark.parametrize(("up", "kernel"), [(False, 1), (False, 3), (True, 3)])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulation_by_loops(up, demodulate, kernel):
    layer = randomised(ModulatedConv2d(3, 4, kernel, 5, demodulate, up).double())
    rng = np.random.default_rng(0)
    x, style = rng.normal(size=(2, 3, 5, 6)), rng.normal(size=(2, 5))
    with torch.no_grad():
        out = layer(torch.from_numpy(x), torch.from_numpy(style))
    np.testing.assert_allclose(out, modulated(layer, x, style), atol=1e-10)


def test_demodulation_keeps_unit_variance():
    torch.manual_seed(0)
    layer = ModulatedConv2d(32, 16, 3, 8)
    assert (layer.modulation.bias == 1).all()
    style = torch.randn(4, 8) * 5
    out = layer(torch.randn(4, 32, 16, 16), style)[..., 1:-1, 1:-1]
    torch.testing.assert_close(out.detach().var((2, 3)).mean(1), torch.ones(4), atol=0.15, rtol=0)


def test_synthesis_layer_by_layer():
    """The order of styles, noise and skips, written out for 16 px."""
    network, styles = generator().double(), torch.randn(2, 6, 8, dtype=torch.float64)
    noise = [torch.randn(2, 1, side, side, dtype=torch.float64) for side in (4, 8, 8, 16, 16)]

    def styled(layer, x, style, noise):
        y = torch.from_numpy(modulated(layer.conv, x.numpy(), style.numpy()))
        y = y + 0.1 * noise + layer.activate.bias[:, None, None]
        return 2**0.5 * torch.where(y > 0, y, 0.2 * y)

    def rgb(layer, x, style):
        return torch.from_numpy(modulated(layer.conv, x.numpy(), style.numpy())) + layer.bias

    def twice(image):
        return upfirdn2d(image, torch.from_numpy(4 * BINOMIAL), 2, pad=(2, 1))

    with torch.no_grad():
        x = styled(network.conv1, network.input.input.expand(2, -1, -1, -1), styles[:, 0], noise[0])
        image = rgb(network.to_rgb1, x, styles[:, 1])
        x = styled(network.convs[0], x, styles[:, 1], noise[1])
        x = styled(network.convs[1], x, styles[:, 2], noise[2])
        image = twice(image) + rgb(network.to_rgbs[0], x, styles[:, 3])
        x = styled(network.convs[2], x, styles[:, 3], noise[3])
        x = styled(network.convs[3], x, styles[:, 4], noise[4])
        image = twice(image) + rgb(network.to_rgbs[1], x, styles[:, 5])
        torch.testing.assert_close(network.synthesis(styles, noise), image)


def test_noise_is_fixed_unless_given():
    network, styles = generator(), torch.randn(1, 6, 8)
    with torch.no_grad():
        first, again = network.synthesis(styles), network.synthesis(styles)
        other = network.synthesis(styles, [torch.randn_like(noise) for noise in network.noise()])
        same = network.synthesis(styles, network.noise())
    assert torch.equal(first, again)
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=1e-2)


def test_truncation():
    network, z, mean = generator(), torch.randn(3, 8), torch.randn(8)
    with torch.no_grad():
        w = network.mapping(z)
        torch.testing.assert_close(network(z), network.synthesis(network.broadcast(w)))
        half = network.synthesis(network.broadcast((w + mean) / 2))
        torch.testing.assert_close(network(z, 0.5, mean), half)
        none = network(z, 0.0, mean)
    torch.testing.assert_close(none[0], none[1])
    with pytest.raises(ValueError, match="truncation"):
        network(z, 0.5)


def test_clamping():
    torch.manual_seed(0)
    free, clamped = Generator(**SIZES), Generator(**SIZES, clamp=0.5)
    clamped.load_state_dict(free.state_dict())
    seen = []
    clamped.convs[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    styles = torch.randn(1, 6, 8)
    with torch.no_grad():
        assert not torch.allclose(free.synthesis(styles), clamped.synthesis(styles))
        clamped.synthesis(styles * 10)
    assert float(seen[0].abs().max()) == 0.5
    clamped.clamp = 1e6
    with torch.no_grad():
        torch.testing.assert_close(free.synthesis(styles), clamped.synthesis(styles))


def test_the_discriminator_sees_the_spread_of_its_groups():
    network = randomised(Discriminator(8, 64, 8)).double()
    images = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    seen = []
    network.final_conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = network(images)
        features = network.convs(images).numpy()
    assert logits.shape == (8, 1)
    for sample in range(8):
        group = [number for number in range(8) if number % 2 == sample % 2]  # 2 groups of 4, interleaved
        spread = np.sqrt(features[group].var(0) + 1e-8).mean()
        np.testing.assert_allclose(seen[0][sample, -1], np.full((4, 4), spread))
        np.testing.assert_allclose(seen[0][sample, :-1], features[sample])


def test_a_residual_block_by_scipy():
    network = randomised(Discriminator(8, 64, 8)).double()
    block, x = network.convs[1], np.random.default_rng(0).normal(size=(8, 8, 8))

    def conv(x, layer, stride=1, pad=0):
        weight = layer.weight.detach().numpy() / np.sqrt(layer.weight[0].numel())
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        out = [sum(signal.correlate2d(c, k, "valid") for c, k in zip(x, row, strict=True)) for row in weight]
        return np.array(out)[:, ::stride, ::stride]

    def blur(x, pad):
        return np.array([signal.convolve2d(np.pad(c, pad), BINOMIAL, "valid") for c in x])

    def active(x, layer):
        x = x + layer.bias.detach().numpy()[:, None, None]
        return 2**0.5 * np.where(x > 0, x, 0.2 * x)

    y = active(conv(x, block.conv1[0], pad=1), block.conv1[1])
    y = active(conv(blur(y, 2), block.conv2[1], 2), block.conv2[2])
    expected = (y + conv(blur(x, 1), block.skip[1], 2)) / 2**0.5
    with torch.no_grad():
        np.testing.assert_allclose(block(torch.from_numpy(x)[None])[0], expected, atol=1e-10)


def test_gradients_of_gradients_exist():
    """R1 and path length regularisation differentiate twice."""
    network, images = Discriminator(8, 64, 8), torch.randn(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert network.convs[0][0].weight.grad.abs().sum() > 0
    painter, styles = generator(), torch.randn(2, 6, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(painter.synthesis(styles).sum(), styles, create_graph=True)
    gradient.square().sum().backward()
    assert painter.convs[0].conv.weight.grad.abs().sum() > 0
