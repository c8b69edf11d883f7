import math

import pytest
import torch

from stages.store import StoreError
from stages.transfer.cut import ResnetGenerator, load_part, save_states
from stages.transfer.unsb.networks import (
    Discriminator,
    Generator,
    PatchProjector,
    PixelNorm,
    channels,
    load_official,
    sinusoids,
)
from tests.transfer.official import described, listing, randomised


def inputs(n=2, width=4, dtype=torch.float32, side=16):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, side, side - 4, generator=generator, dtype=dtype) * 2 - 1
    return images, torch.arange(n) + 1, torch.randn(n, 4 * width, generator=generator, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "kind", "sizes", "numbers"),
    [
        ("unsb_netG", Generator, {}, 14_684_419),
        ("unsb_netG", Generator, {"corrected": True}, 14_684_419),
        ("unsb_netD", Discriminator, {}, 3_143_041),
        ("unsb_netE", Discriminator, {"channels": 12}, 3_152_257),
    ],
)
def test_official_names_shapes_and_dtypes(name, kind, sizes, numbers):
    with torch.device("meta"):
        network = kind(**sizes)
    assert list(described(network).items()) == list(listing(name).items())
    assert sum(parameter.numel() for parameter in network.parameters()) == numbers


def test_the_official_fault_is_kept():
    """Facts 10: of 9 blocks, 58 of 114 tensors have no gradient, and the step changes nothing; the noise does."""
    torch.manual_seed(0)
    network = randomised(Generator(4, 9))
    images, t, z = inputs()
    made = network(images, t, z)
    made.sum().backward()
    dead = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert (len(dead), len(list(network.parameters()))) == (58, 114)
    parts = ("conv_block", "Dense_time", "style", "time_embed")
    assert all(any(part in name.split(".") for part in parts) for name in dead)
    assert torch.equal(network(images, 0 * t, z), network(images, 0 * t + 4, z))
    assert not torch.equal(network(images, t, z), network(images, t, -2 * z))


def test_the_fault_corrected():
    """The step counts, and nothing but the layer `style`, which nobody uses, is without a gradient."""
    torch.manual_seed(0)
    network = randomised(Generator(4, 3, corrected=True))
    images, t, z = inputs()
    network(images, t, z).sum().backward()
    dead = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.abs().sum()]
    assert {name.split(".")[-2] for name in dead} == {"style"}
    assert not torch.allclose(network(images, 0 * t, z), network(images, 0 * t + 4, z), atol=1e-4)


@pytest.mark.parametrize("corrected", [False, True])
def test_the_generator_layer_by_layer(corrected):
    """Rebuilt from its weights, in order, by the functions that the facts name."""
    network = randomised(Generator(4, 2, corrected)).double()
    weights, f = network.state_dict(), torch.nn.functional

    def conv(x, layer, pad=0):
        return f.conv2d(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=pad)

    def linear(x, layer):
        return f.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])

    def normed(x):
        return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    def mirrored(x, pad):
        return f.pad(x, (pad,) * 4, mode="reflect")

    images, t, z = inputs(dtype=torch.float64)
    x = normed(conv(mirrored(images, 3), "model.1")).relu()
    for layer in (4, 8):
        x, blur = normed(conv(x, f"model.{layer}", 1)).relu(), weights[f"model.{layer + 3}.filt"]
        x = f.conv2d(mirrored(x, 1), blur, stride=2, groups=len(blur))
    hidden = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in (1, 3, 5, 7):
        hidden = f.leaky_relu(linear(hidden, f"z_transform.{layer}"), 0.2)
    time = sinusoids(t, 4).double()
    for layer in (0, 2):
        time = f.leaky_relu(linear(time, f"time_embed.{layer}"), 0.2)
    for block in ("model_res.0", "model_res.1"):
        if corrected:
            inner = normed(conv(mirrored(x, 1), f"{block}.conv_block.1"))
            inner = inner + linear(time, f"{block}.Dense_time")[..., None, None]
        else:
            inner = normed(x)
        style = linear(hidden, f"{block}.adaptive.style_net")[..., None, None]
        inner = (style[:, :16] * inner + style[:, 16:]).relu()
        x = x + normed(conv(mirrored(inner, 1), f"{block}.conv_fin.2"))
    for layer in (1, 5):
        blur = weights[f"model_upsample.{layer - 1}.filt"]
        x = f.pad(x, (1, 1, 1, 1), mode="replicate")
        x = f.conv_transpose2d(x, blur, stride=2, padding=2, groups=len(blur))[:, :, 1:-1, 1:-1]
        x = normed(conv(x, f"model_upsample.{layer}", 1)).relu()
    x = conv(mirrored(x, 3), "model_upsample.9").tanh()
    with torch.no_grad():
        torch.testing.assert_close(network(images, t, z), x, rtol=0, atol=1e-6)


def test_official_taps():
    with torch.device("meta"):
        network = Generator()
        features = network.encode(torch.zeros(1, 3, 256, 256), torch.zeros(1), torch.zeros(1, 256))
    assert [(x.shape[1], x.shape[2]) for x in features] == [(3, 262), (128, 256), (256, 128), (256, 64), (256, 64)]
    assert channels(network) == [x.shape[1] for x in features]


def test_features_are_those_on_the_way_of_a_translation():
    network = randomised(Generator(4, 3))
    images, t, z = inputs()
    seen = {}
    for number, layer in enumerate([*network.model, *network.model_res]):
        layer.register_forward_hook(lambda _, __, output, number=number: seen.setdefault(number, output.clone()))
    with torch.no_grad():
        network(images, t, z)
        features = network.encode(images, t, z)
    assert network.taps == (0, 4, 8, 12, 14)
    for number, x in zip(network.taps, features, strict=True):
        assert torch.equal(x, seen[number])


@pytest.mark.parametrize("pairs", [False, True])
def test_the_discriminator_layer_by_layer(pairs):
    network = randomised(Discriminator(4, 6 if pairs else 3)).double()
    weights, f = network.state_dict(), torch.nn.functional
    images, t, _ = inputs(dtype=torch.float64, side=32)
    x = torch.cat([images, -images], 1) if pairs else images
    time = sinusoids(t, 16).double()
    for layer in (0, 2):
        time = f.linear(time, weights[f"t_embed.main.{layer}.weight"], weights[f"t_embed.main.{layer}.bias"])
        time = f.leaky_relu(time, 0.2)
    for block in range(4):
        own = {name.split(".", 2)[2]: x for name, x in weights.items() if name.startswith(f"model_main.{block}.")}
        x = f.conv2d(x, own["conv1.weight"], own["conv1.bias"], padding=1)
        x = x + f.linear(time, own["dense.weight"], own["dense.bias"])[..., None, None]
        x = f.leaky_relu(f.instance_norm(x) if block else x, 0.2)
        if block < 3:
            x = f.conv2d(f.pad(x, (1,) * 4, mode="reflect"), own["down.filt"], stride=2, groups=x.shape[1])
    x = f.conv2d(x, weights["final_conv.weight"], weights["final_conv.bias"], padding=1)
    with torch.no_grad():
        made = network(images, t, -images) if pairs else network(images, t)
    torch.testing.assert_close(made, x, rtol=0, atol=1e-6)


def test_sinusoids_by_hand():
    t = torch.tensor([0, 3])
    rates = [1, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3), 1e-4]
    wanted = [[f(k * rate) for f in (math.sin, math.cos) for rate in rates] for k in t.tolist()]
    torch.testing.assert_close(sinusoids(t, 8), torch.tensor(wanted))


def test_pixel_norm_and_projections_have_their_lengths():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PixelNorm()(x).square().mean(1), torch.ones(3))
    torch.manual_seed(0)
    projector = PatchProjector([3, 5], size=7)
    assert [tuple(w.shape) for w in projector.parameters()] == [(7, 3), (7,), (7, 7), (7,), (7, 5), (7,), (7, 7), (7,)]
    features, places = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)], [torch.tensor([9, 2, 4]), torch.tensor([3])]
    made = projector(features, places)
    assert [tuple(x.shape) for x in made] == [(2, 3, 7), (2, 1, 7)]
    wanted = projector.mlp_0(features[0][1, :, 0, 2])
    torch.testing.assert_close(made[0][1, 1], wanted / (wanted.square().sum().sqrt() + 1e-7))


def test_initialisation_has_no_bias_not_even_in_the_adaptive_layers():
    """CUT's initialisation overwrites the ones that the official class puts there."""
    assert not any(x.any() for name, x in Generator(4, 2).named_parameters() if name.endswith("bias"))


def test_official_files_round_trip(tmp_path):
    network, energy = randomised(Generator(8, 3)), randomised(Discriminator(4, 12))
    save_states(tmp_path, {"G": network, "E": energy})
    images, t, z = inputs(width=8)
    for corrected in (False, True):
        loaded = load_official(tmp_path / "latest_net_G.pth", corrected)
        assert not loaded.training
        for name, value in network.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        assert torch.equal(loaded(images, t, z), network(images, t, z)) != corrected
    other = Discriminator(4, 12)
    load_part(tmp_path / "latest_net_E.pth", other)
    assert all(torch.equal(x, energy.state_dict()[name]) for name, x in other.state_dict().items())


def test_wrong_files_are_refused_by_name(tmp_path):
    save_states(tmp_path, {"G": ResnetGenerator(4, 9)})
    with pytest.raises(StoreError, match=r"latest_net_G\.pth: not the weights of Generator: .*missing \(model_res\.0"):
        load_official(tmp_path / "latest_net_G.pth")
    with pytest.raises(StoreError, match=r"none\.pth: no such checkpoint; UNSB's"):
        load_official(tmp_path / "none.pth")
