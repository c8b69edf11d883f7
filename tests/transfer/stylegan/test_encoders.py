import numpy as np
import pytest
import torch
from scipy import signal

from stages.transfer.stylegan.encoders import BottleneckIRSE, E4EEncoder, PSPEncoder, SqueezeExcite, StyleBlock
from tests.transfer.official import described, listing, randomised
from tests.transfer.stylegan.tiny import encoder


@pytest.mark.parametrize(
    ("name", "kind"), [("pixel2style2pixel_encoder", PSPEncoder), ("encoder4editing_encoder", E4EEncoder)]
)
def test_official_names_shapes_and_dtypes(name, kind):
    with torch.device("meta"):
        network = kind()
        assert network(torch.zeros(2, 3, 256, 256)).shape == (2, 18, 512)
    assert {f"encoder.{key}": value for key, value in described(network).items()} == listing(name)
    assert network.taps == [6, 20, 23]
    assert sum(parameter.numel() for parameter in network.parameters()) == 267_136_704


def conv(x, layer):
    """By scipy, zero padded: x [c, h, w]."""
    weight, bias = layer.weight.detach().numpy(), layer.bias
    border, stride = layer.padding[0], layer.stride[0]
    x = np.pad(x, ((0, 0), (border, border), (border, border)))
    out = [sum(signal.correlate2d(c, k, "valid") for c, k in zip(x, row, strict=True)) for row in weight]
    out = np.array(out)[:, ::stride, ::stride]
    return out if bias is None else out + bias.detach().numpy()[:, None, None]


def batch_norm(x, layer):
    state = {name: value.numpy()[:, None, None] for name, value in layer.state_dict().items() if value.ndim}
    normal = (x - state["running_mean"]) / np.sqrt(state["running_var"] + 1e-5)
    return normal * state["weight"] + state["bias"]


def squeeze_excite(x, layer):
    first, second = (part.weight.detach().numpy()[:, :, 0, 0] for part in (layer.fc1, layer.fc2))
    gate = 1 / (1 + np.exp(-(second @ np.maximum(first @ x.mean((1, 2)), 0))))
    return x * gate[:, None, None]


def test_squeeze_and_excite():
    layer = randomised(SqueezeExcite(32).double())
    x = np.random.default_rng(0).normal(size=(32, 3, 4)) + 1
    with torch.no_grad():
        np.testing.assert_allclose(layer(torch.from_numpy(x)[None])[0], squeeze_excite(x, layer), atol=1e-12)


@pytest.mark.parametrize(("width", "stride"), [(16, 1), (16, 2), (32, 2)])
def test_residual_block_by_scipy(width, stride):
    block = randomised(BottleneckIRSE(16, width, stride).double())
    x = np.random.default_rng(0).normal(size=(16, 6, 6))
    norm, first, prelu, second, last, gate = block.res_layer
    y = conv(batch_norm(x, norm), first)
    y = np.where(y > 0, y, y * prelu.weight.detach().numpy()[:, None, None])
    y = squeeze_excite(batch_norm(conv(y, second), last), gate)
    if width == 16:
        shortcut = x[:, ::stride, ::stride]
    else:
        shortcut = batch_norm(conv(x, block.shortcut_layer[0]), block.shortcut_layer[1])
    with torch.no_grad():
        np.testing.assert_allclose(block(torch.from_numpy(x)[None])[0], y + shortcut, atol=1e-10)


@pytest.mark.parametrize("side", [2, 8])
def test_a_style_block_halves_to_one(side):
    block = randomised(StyleBlock(6, 5, side).double())
    x = np.random.default_rng(0).normal(size=(6, side, side))
    y = x
    for layer in block.convs[::2]:
        y = conv(y, layer)
        y = np.where(y > 0, y, 0.01 * y)
    assert y.shape == (5, 1, 1)
    expected = block.linear.weight.detach().numpy() @ y[:, 0, 0] / 5**0.5 + block.linear.bias.detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(block(torch.from_numpy(x)[None])[0], expected, atol=1e-12)


def enlarge(x):
    """Twice the size, linear between the centres of the corner samples."""

    def along(x, axis):
        place = np.linspace(0, x.shape[axis] - 1, 2 * x.shape[axis])
        return np.apply_along_axis(lambda row: np.interp(place, np.arange(len(row)), row), axis, x)

    return along(along(x, 1), 2)


def test_the_pyramid_and_who_reads_which_level():
    network = randomised(
        PSPEncoder(styles=10, size=64, depths=(1, 2, 2, 1), widths=(16, 16, 16, 32), dimension=8)
    ).double()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        out = network(x)[0]
        h, features = network.input_layer(x), []
        for block in network.body:
            h = block(h)
            features.append(h[0].numpy())
        fine, middle, coarse = features[2], features[4], features[5]
        assert [len(level[0]) for level in (fine, middle, coarse)] == [16, 8, 4]
        middle = enlarge(coarse) + conv(middle, network.latlayer1)
        fine = enlarge(middle) + conv(fine, network.latlayer2)
        for number, style in enumerate(network.styles):
            level = coarse if number < 3 else middle if number < 7 else fine
            np.testing.assert_allclose(out[number], style(torch.from_numpy(level)[None])[0], atol=1e-10)


def test_e4e_adds_to_the_first_style():
    psp, e4e = encoder(PSPEncoder), encoder(E4EEncoder)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        each, styles = psp(images), e4e(images)
    torch.testing.assert_close(styles[:, 0], each[:, 0])
    torch.testing.assert_close(styles[:, 1:], each[:, :1] + each[:, 1:])
    assert float((each[0] - each[1]).abs().max()) > 1e-3
