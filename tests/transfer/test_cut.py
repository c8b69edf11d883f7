import itertools

import numpy as np
import pytest
import torch
from torch import nn

from stages.store import StoreError
from stages.transfer.cut import (
    Discriminator,
    Downsample,
    ResnetGenerator,
    Upsample,
    adam,
    discriminator_loss,
    draw_places,
    initialise,
    linear_decay,
    load_generator,
    load_part,
    lsgan,
    patches,
    save_states,
    taps,
)
from tests.transfer.official import described, listing, randomised


@pytest.mark.parametrize(
    ("name", "kind", "numbers"),
    [("cut_decent_netG_resnet9", ResnetGenerator, 11_378_179), ("cut_decent_netD_basic", Discriminator, 2_764_737)],
)
def test_official_names_shapes_and_dtypes(name, kind, numbers):
    with torch.device("meta"):
        network = kind()
    assert list(described(network).items()) == list(listing(name).items())
    assert sum(parameter.numel() for parameter in network.parameters()) == numbers


def test_official_taps():
    """The facts' channels and sizes of the layers 0, 4, 8, 12, 16 for a 256 px image."""
    with torch.device("meta"):
        network = ResnetGenerator()
    output, features = network.tapped(torch.zeros(1, 3, 256, 256, device="meta"))
    assert output.shape == (1, 3, 256, 256)
    shapes = [(3, 262), (128, 256), (256, 128), (256, 64), (256, 64)]
    assert [(x.shape[1], x.shape[2]) for x in features] == shapes
    assert Discriminator().to("meta")(torch.zeros(1, 3, 256, 256, device="meta")).shape == (1, 1, 30, 30)


def test_fewer_blocks_have_their_last_tap_on_the_last_block():
    assert [taps(blocks)[-1] for blocks in (2, 3, 4, 5, 6, 9)] == [13, 14, 15, 16, 16, 16]
    with pytest.raises(ValueError, match="at least 2"):
        taps(1)


def test_downsampling_blurs_and_takes_every_second_pixel():
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    wanted = [
        [[(padded[0, c, i : i + 3, j : j + 3] * kernel).sum() for j in range(0, 7, 2)] for i in range(0, 6, 2)]
        for c in (0, 1)
    ]
    np.testing.assert_allclose(Downsample(2).double()(x)[0], wanted, atol=1e-12)


def test_upsampling_puts_pixels_at_quarters_between_their_neighbours():
    """In a row, [1, 3, 3, 1] / 4 on a doubled grid is (x[i - 1] + 3 x[i]) / 4, then (3 x[i] + x[i + 1]) / 4."""

    def doubled(row):
        beside = np.concatenate([row[:1], row, row[-1:]])
        return np.stack([(beside[:-2] + 3 * row) / 4, (3 * row + beside[2:]) / 4], 1).ravel()

    x = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    wanted = np.apply_along_axis(doubled, 1, np.apply_along_axis(doubled, 0, x[0, 0].numpy()))
    np.testing.assert_allclose(Upsample(1).double()(x)[0, 0], wanted, atol=1e-12)


def test_the_generator_layer_by_layer():
    """Rebuilt from its weights, in order, by the functions that the facts name."""
    network = randomised(ResnetGenerator(4, 2)).double()
    weights = {name.removeprefix("model."): value for name, value in network.state_dict().items()}
    f = nn.functional

    def conv(x, layer, pad=0):
        return f.conv2d(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=pad)

    def normed(x):
        return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    def mirrored(x, pad):
        return f.pad(x, (pad,) * 4, mode="reflect")

    x = images = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    x = normed(conv(mirrored(x, 3), 1)).relu()
    for layer in (4, 8):
        x, blur = normed(conv(x, layer, 1)).relu(), weights[f"{layer + 3}.filt"]
        x = f.conv2d(mirrored(x, 1), blur, stride=2, groups=len(blur))
    for layer in (12, 13):
        inner = normed(conv(mirrored(x, 1), f"{layer}.conv_block.1")).relu()
        x = x + normed(conv(mirrored(inner, 1), f"{layer}.conv_block.5"))
    for layer in (15, 19):
        blur = weights[f"{layer - 1}.filt"]
        x = f.pad(x, (1, 1, 1, 1), mode="replicate")
        x = f.conv_transpose2d(x, blur, stride=2, padding=2, groups=len(blur))[:, :, 1:-1, 1:-1]
        x = normed(conv(x, layer, 1)).relu()
    x = conv(mirrored(x, 3), 23).tanh()
    with torch.no_grad():
        torch.testing.assert_close(network(images), x, rtol=0, atol=1e-10)
        output, features = network.tapped(images)
    torch.testing.assert_close(output, x, rtol=0, atol=1e-10)
    with torch.no_grad():
        for one, other in zip(features, network.encode(images), strict=True):
            assert torch.equal(one, other)
    torch.testing.assert_close(features[0], mirrored(images, 3))
    torch.testing.assert_close(features[1], conv(normed(conv(features[0], 1)).relu(), 4, 1), rtol=0, atol=1e-10)


def test_initialisation():
    """Xavier's normal deviation with a gain of 0.02, and no bias."""
    torch.manual_seed(0)
    layer = nn.Conv2d(30, 50, 3)
    initialise(nn.Sequential(layer))
    assert layer.weight.std().item() == pytest.approx(0.02 * (2 / (9 * 30 + 9 * 50)) ** 0.5, rel=0.03)
    assert not layer.bias.any()
    assert not any(weight.any() for name, weight in ResnetGenerator(4, 2).named_parameters() if name.endswith("bias"))


def test_official_optimiser_and_schedule():
    (group,) = adam(nn.Linear(1, 1)).param_groups
    assert (group["lr"], group["betas"], group["weight_decay"], group["amsgrad"]) == (2e-4, (0.5, 0.999), 0, False)
    assert [linear_decay(epoch) for epoch in (0, 199)] == [1, 1]
    falling = [linear_decay(epoch) for epoch in range(199, 400)]
    assert np.allclose(np.diff(falling), -1 / 201)
    assert falling[-1] == pytest.approx(1 / 201)


def test_lsgan_by_hand():
    x = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    assert float(lsgan(x, True)) == pytest.approx((0.25 + 4 + 1 + 1) / 4)
    assert float(lsgan(x, False)) == pytest.approx((0.25 + 1 + 4 + 0) / 4)
    assert float(discriminator_loss(x, -x)) == pytest.approx((5.25 / 4 + (2.25 + 0 + 9 + 1) / 4) / 2)


def test_patches_are_the_places_image_by_image():
    features = [torch.randn(2, 3, 4, 5), torch.randn(2, 7, 2, 2)]
    generator = torch.Generator().manual_seed(0)
    places = draw_places(features, 6, generator)
    assert [len(some) for some in places] == [6, 4]  # of 20 and of 4 there are
    assert all(len(set(some.tolist())) == len(some) for some in places)
    for x, some in zip(features, places, strict=True):
        taken = patches(x, some)
        for (image, number), row in zip(itertools.product(range(2), some.tolist()), taken, strict=True):
            assert torch.equal(row, x[image, :, number // x.shape[3], number % x.shape[3]])
    drawn = torch.stack([draw_places(features[:1], 1, generator)[0] for _ in range(400)])
    assert len(drawn.unique()) == 20  # all places


def test_official_files_round_trip(tmp_path):
    network = randomised(ResnetGenerator(8, 3))
    discriminator = randomised(Discriminator(4))
    save_states(tmp_path, {"G": network, "D": discriminator})
    loaded = load_generator(tmp_path / "latest_net_G.pth")
    assert not loaded.training
    assert loaded.taps == network.taps
    other = Discriminator(4)
    load_part(tmp_path / "latest_net_D.pth", other)
    for one, two in ((loaded, network), (other, discriminator)):
        for name, value in two.state_dict().items():
            assert torch.equal(one.state_dict()[name], value), name


def test_wrong_files_are_refused_by_name(tmp_path):
    save_states(tmp_path, {"G": ResnetGenerator(4, 2), "D": Discriminator(4)})
    with pytest.raises(StoreError, match=r"latest_net_D\.pth: not the weights of ResnetGenerator: .*missing \(model"):
        load_generator(tmp_path / "latest_net_D.pth")
    with pytest.raises(StoreError, match=r"latest_net_G\.pth: not the weights of Discriminator"):
        load_part(tmp_path / "latest_net_G.pth", Discriminator(4))
    state = torch.load(tmp_path / "latest_net_G.pth", weights_only=True)
    for change, message in (
        ({"model.1.bias": None}, r"missing \(model\.1\.bias\)"),
        ({"model.99.bias": torch.zeros(1)}, r"unexpected \(model\.99\.bias\)"),
        ({"model.1.bias": torch.zeros(5)}, r"another shape \(model\.1\.bias \[5\] for \[4\]\)"),
    ):
        changed = {name: value for name, value in (state | change).items() if value is not None}
        torch.save(changed, tmp_path / "changed.pth")
        with pytest.raises(StoreError, match=rf"changed\.pth: .*{message}"):
            load_generator(tmp_path / "changed.pth")
    for content, message in (
        ([1], "holds no state_dict, but a list"),
        ({"epoch": 3}, "epoch is no tensor"),
        ({}, "not the weights of ResnetGenerator"),
    ):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(StoreError, match=rf"other\.pth: .*{message}"):
            load_generator(tmp_path / "other.pth")
    with pytest.raises(StoreError, match=r"none\.pth: no such checkpoint; from there"):
        load_generator(tmp_path / "none.pth", "from there")
