import numpy as np
import pytest
import torch

from stages.store import StoreError
from stages.transfer.vsait.networks import (
    VSAIT,
    GaussianConv2d,
    Generator,
    LSHCat,
    apply,
    load_official,
    save_official,
)
from tests.transfer.official import described, listing, randomised

SIZES = {"width": 4, "blocks": 3, "dimension": 16, "hidden": 6, "channels": (2, 3, 4, 5, 6)}


def test_official_names_shapes_and_dtypes():
    with torch.device("meta"):
        network = VSAIT()
    official = [item for name in ("g_net", "d_net", "lsh", "map") for item in listing(f"vsait_{name}").items()]
    assert [(f"model.{name}", value) for name, value in described(network).items()] == official
    numbers = {name: sum(x.numel() for x in part.parameters()) for name, part in network.named_children()}
    assert numbers == {"g_net": 11_378_179, "d_net": 5_245_953, "lsh_feat": 0, "g_net_map": 33_562_624}


def test_initialisation():
    """Xavier with a gain of 0.2 and no bias; the mapping starts with the same factor tanh 1 for every hypervector."""
    torch.manual_seed(0)
    network = VSAIT(**{**SIZES, "width": 16})
    conv = network.g_net.encoder.net[3].conv
    assert conv.weight.std().item() == pytest.approx(0.2 * (2 / (9 * (32 + 64))) ** 0.5, rel=0.03)
    assert not conv.bias.any()
    assert not network.d_net.net[0].net[2].bias.any()
    vectors = torch.randn(2, 16, 3, 3)
    torch.testing.assert_close(network.g_net_map(vectors), torch.full_like(vectors, np.tanh(1)))


@pytest.mark.parametrize("up", [False, True])
def test_gaussian_resampling_pixel_by_pixel(up):
    """A weight falls as exp(-distance^2 / 2) from where a pixel lies in the other image; outside there is nothing."""
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    made = GaussianConv2d(2, up).double()(x)[0]
    side = 4 if up else 3
    middle = (side - 1) / 2
    total = sum(np.exp(-((i - middle) ** 2 + (j - middle) ** 2) / 2) for i in range(side) for j in range(side))
    wanted = np.zeros((2, *((10, 8) if up else (3, 2))))
    for c, (y, z) in ((c, place) for c in range(2) for place in np.ndindex(*wanted.shape[1:])):
        for v, w in np.ndindex(5, 4):
            # the pixel's place seen from the made one's, in px of the finer image
            down, right = (2 * v + 0.5 - y, 2 * w + 0.5 - z) if up else (v - 2 * y, w - 2 * z)
            if max(abs(down), abs(right)) <= middle:
                weight = np.exp(-(down**2 + right**2) / 2) / total * (4 if up else 1)
                wanted[c, y, z] += weight * x[0, c, v, w].item()
    np.testing.assert_allclose(made, wanted, atol=1e-7)  # the kernel was made in float32


def test_the_generator_layer_by_layer():
    """Rebuilt from its weights, in order, by the functions that the facts name."""
    network = randomised(Generator(4, 3)).double()
    weights, f = network.state_dict(), torch.nn.functional

    def conv(x, layer, pad):
        x = f.pad(x, (pad,) * 4, mode="reflect")
        return f.conv2d(x, weights[f"{layer}.conv.weight"], weights[f"{layer}.conv.bias"])

    def normed(x):
        return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    def block(x, layer):
        return x + normed(conv(normed(conv(x, f"{layer}.net.0", 1)).relu(), f"{layer}.net.1", 1))

    images = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    x = normed(conv(images, "encoder.net.0", 3)).relu()
    for layer in (1, 3):
        x, blur = normed(conv(x, f"encoder.net.{layer}", 1)).relu(), weights[f"encoder.net.{layer + 1}.weight"]
        x = f.conv2d(f.pad(x, (1, 1, 1, 1)), blur, stride=2, groups=len(blur))
    for layer in ("encoder.net.5", "encoder.net.6", "decoder.net.0"):
        x = block(x, layer)
    for layer in (2, 4):
        blur = weights[f"decoder.net.{layer - 1}.weight"]
        x = f.conv_transpose2d(f.pad(x, (1, 1, 1, 1)), blur, stride=2, padding=2, groups=len(blur))[:, :, 1:-1, 1:-1]
        x = normed(conv(x, f"decoder.net.{layer}", 1)).relu()
    x = conv(x, "decoder.net.5", 3).tanh()
    with torch.no_grad():
        torch.testing.assert_close(network(images), x, rtol=0, atol=1e-10)


def test_hypervectors_are_cosines_with_all_levels_joined():
    torch.manual_seed(0)
    channels, kernels = (2, 3), (4, 2)
    features = [torch.randn(2, 2, 12, 8, dtype=torch.float64), torch.randn(2, 3, 6, 4, dtype=torch.float64)]
    lsh = LSHCat(channels, 7, kernels).double()
    made = lsh(features)
    assert made.shape == (2, 7, 3, 2)
    for n, d, u, v in np.ndindex(*made.shape):
        patch = [
            x[n, :, u * k : (u + 1) * k, v * k : (v + 1) * k].flatten() for x, k in zip(features, kernels, strict=True)
        ]
        direction = torch.cat([level.weight[d].flatten() for level in lsh])
        cosine = torch.dot(torch.cat(patch), direction) / torch.cat(patch).norm() / direction.norm()
        assert made[n, d, u, v].item() == pytest.approx(cosine.item(), rel=1e-4)
    louder = lsh([3 * x for x in features])
    torch.testing.assert_close(louder, made, rtol=1e-5, atol=0)
    assert not list(lsh.parameters())


def test_official_files_round_trip(tmp_path):
    torch.manual_seed(0)
    network = VSAIT(**SIZES)
    with torch.no_grad():
        network.g_net_map[0][1].conv.weight.normal_()
    path = tmp_path / "vsait.ckpt"
    save_official(path, network)
    content = torch.load(path, weights_only=True)
    assert list(content) == ["state_dict"]
    content["state_dict"]["model.feature_extractor.net.features.0.weight"] = torch.zeros(64, 3, 3, 3)
    lightning = {"epoch": 3, "global_step": 9, "callbacks": {"ModelCheckpoint": {"best_model_score": torch.zeros(1)}}}
    torch.save(lightning | content, path)
    torch.manual_seed(1)
    loaded = load_official(path)
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.g_net(images), network.g_net(images))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.lsh_feat.3._ssq_conv", None, r"missing \(model\.lsh_feat\.3\._ssq_conv\)"),
        ("model.g_net.encoder.net.0.conv.weight", None, r"missing \(model\.g_net\.encoder\.net\.0\.conv\.weight"),
        ("model.lsh_feat.2.weight", None, r"missing \(model\.lsh_feat\.2\.weight"),
        ("criterion.weight", torch.zeros(1), r"unexpected \(criterion\.weight\)"),
        ("model.d_net.net.0.net.2.bias", torch.zeros(2), r"another shape \(model\.d_net\.net\.0\.net\.2\.bias \[2\]"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path, name, value, message, monkeypatch):
    monkeypatch.setattr(VSAIT.__init__, "__defaults__", tuple(SIZES.values()))  # what is not in the file, in small
    path = tmp_path / "vsait.ckpt"
    save_official(path, VSAIT(**SIZES))
    state = torch.load(path, weights_only=True)["state_dict"] | {name: value}
    torch.save({"state_dict": {key: tensor for key, tensor in state.items() if tensor is not None}}, path)
    with pytest.raises(StoreError, match=rf"vsait\.ckpt: .*{message}"):
        load_official(path)


def test_a_bare_state_dict_is_no_checkpoint(tmp_path):
    torch.save(Generator(4, 2).state_dict(), tmp_path / "vsait.ckpt")
    with pytest.raises(StoreError, match=r"vsait\.ckpt: no state_dict under 'state_dict'"):
        load_official(tmp_path / "vsait.ckpt")


def test_no_image_depends_on_those_beside_it():
    network = randomised(Generator(4, 3))
    shown = np.random.default_rng(0).integers(0, 256, (5, 18, 13, 3), dtype=np.uint8)
    made = apply(network, shown)
    assert made.shape == shown.shape
    assert made.dtype == np.uint8
    for k in range(5):
        assert np.array_equal(apply(network, shown[[k]])[0], made[k])
    assert np.array_equal(apply(network, shown[[3, 1]]), made[[3, 1]])
