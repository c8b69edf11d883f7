import hashlib
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from stages.knobs import ParamsError
from stages.store import StoreError
from stages.train.backbones import BACKBONES, Card, create_backbone, find_networks, load_backbone, save_backbone
from stages.train.networks import IRBlock, LResNet, create_on_meta, normalise

# Of the official checkpoints: trained parameters, and entries of the state_dict and a digest of their names and shapes.
OFFICIAL = {
    "ir_18": (24_020_352, 179, "dd17eeea90b3bf1618e4f3996663f7f670833bdfc59fd3d5e4382152174fb438"),
    "ir_50": (43_585_600, 467, "5a66afad9bda4427518540d345be43c42add82d1df5ee382bd9f869bed60ce69"),
    "ir_101": (65_150_912, 917, "1a0fcd7e1f9e28dbdb6545217740ee95ab41d00078875dafd470a1ade11bf2f8"),
    "iresnet18": (24_025_600, 187, "8a1772fbc5b63d10ef4994d67117761ba40403f7e6b34036bf620958384ece96"),
    "iresnet50": (43_590_848, 475, "8b10e3d3ada4f9845a2d8f58601cebc21ab5de8756a74070634ffe0e01874be6"),
    "iresnet100": (65_156_160, 925, "ad0e1bc1440bb2bd8258aa506adfd4b89a6b9268da8d6db79d19938d57b7e268"),
    "LResNet50E_IR": (41_755_840, 475, "e5310bb8efa9f6c01b422c310aa179477c485515ad9cee44ef19d8032319e06f"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_layout_is_the_official_one(name):
    network = create_on_meta(name)
    state = network.state_dict()
    listing = "".join(sorted(f"{entry} {tuple(tensor.shape)}\n" for entry, tensor in state.items()))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (parameters, len(state), hashlib.sha256(listing.encode()).hexdigest()) == OFFICIAL[name]


def norms(name, width):
    return {f"{name}.{kind}": (width,) for kind in ("weight", "bias", "running_mean", "running_var")}


def adaface_listing(depths, bottleneck=False, squeeze=False):
    """Names and shapes of AdaFace's `net.py`, written out from its facts."""
    wide = 4 if bottleneck else 1
    out = {"input_layer.0.weight": (64, 3, 3, 3), **norms("input_layer.1", 64), "input_layer.2.weight": (64,)}
    block, before = 0, 64
    for width, depth in zip((64 * wide, 128 * wide, 256 * wide, 512 * wide), depths, strict=True):
        for _ in range(depth):
            at = f"body.{block}"
            if before != width:
                out |= {
                    f"{at}.shortcut_layer.0.weight": (width, before, 1, 1),
                    **norms(f"{at}.shortcut_layer.1", width),
                }
            at += ".res_layer"
            out |= norms(f"{at}.0", before)
            if bottleneck:
                mid = width // 4
                out |= {f"{at}.1.weight": (mid, before, 1, 1), **norms(f"{at}.2", mid), f"{at}.3.weight": (mid,)}
                out |= {f"{at}.4.weight": (mid, mid, 3, 3), **norms(f"{at}.5", mid), f"{at}.6.weight": (mid,)}
                out |= {f"{at}.7.weight": (width, mid, 1, 1), **norms(f"{at}.8", width)}
            else:
                out |= {f"{at}.1.weight": (width, before, 3, 3), **norms(f"{at}.2", width), f"{at}.3.weight": (width,)}
                out |= {f"{at}.4.weight": (width, width, 3, 3), **norms(f"{at}.5", width)}
            if squeeze:
                out[f"{at}.se_block.fc1.weight"] = (width // 16, width, 1, 1)
                out[f"{at}.se_block.fc2.weight"] = (width, width // 16, 1, 1)
            block, before = block + 1, width
    out |= {
        **norms("output_layer.0", before),
        "output_layer.3.weight": (512, before * 49),
        "output_layer.3.bias": (512,),
    }
    return out | {"output_layer.4.running_mean": (512,), "output_layer.4.running_var": (512,)}


def insightface_listing(depths):
    """Names and shapes of insightface's `iresnet.py`, written out from its facts."""
    out = {"conv1.weight": (64, 3, 3, 3), **norms("bn1", 64), "prelu.weight": (64,)}
    before = 64
    for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            out |= {**norms(f"{at}.bn1", before), f"{at}.conv1.weight": (width, before, 3, 3)}
            out |= {**norms(f"{at}.bn2", width), f"{at}.prelu.weight": (width,)}
            out |= {f"{at}.conv2.weight": (width, width, 3, 3), **norms(f"{at}.bn3", width)}
            if block == 0:
                out |= {f"{at}.downsample.0.weight": (width, before, 1, 1), **norms(f"{at}.downsample.1", width)}
            before = width
    out |= {**norms("bn2", 512), "fc.weight": (512, 512 * 49), "fc.bias": (512,)}
    return out | norms("features", 512)


def mobile_listing(depths, scale):
    """Names and shapes of insightface's `mobilefacenet.py`, written out."""
    out: dict[str, tuple[int, ...]] = {}

    def conv(at, before, width, kernel=1, groups=1, linear=False):
        out[f"{at}.layers.0.weight"] = (width, before // groups, kernel, kernel)
        out.update(norms(f"{at}.layers.1", width))
        if not linear:
            out[f"{at}.layers.2.weight"] = (width,)

    def bottleneck(at, before, width, groups):
        conv(f"{at}.layers.0", before, groups)
        conv(f"{at}.layers.1", groups, groups, 3, groups)
        conv(f"{at}.layers.2", groups, width, linear=True)

    def residual(at, width, depth, groups):
        for block in range(depth):
            bottleneck(f"{at}.layers.{block}", width, width, groups)

    narrow, wide = 64 * scale, 128 * scale
    conv("layers.0", 3, narrow, 3)
    if depths[0] == 1:
        conv("layers.1", narrow, narrow, 3, 64)
    else:
        residual("layers.1", narrow, depths[0], 128)
    bottleneck("layers.2", narrow, narrow, 128)
    residual("layers.3", narrow, depths[1], 128)
    bottleneck("layers.4", narrow, wide, 256)
    residual("layers.5", wide, depths[2], 256)
    bottleneck("layers.6", wide, wide, 512)
    residual("layers.7", wide, depths[3], 256)
    conv("conv_sep", wide, 512)
    conv("features.layers.0", 512, 512, 7, 512, linear=True)
    return out | {"features.layers.2.weight": (512, 512)} | norms("features.layers.3", 512)


LISTINGS = {
    "ir_18": adaface_listing((2, 2, 2, 2)),
    "ir_50": adaface_listing((3, 4, 14, 3)),
    "ir_101": adaface_listing((3, 13, 30, 3)),
    "iresnet18": insightface_listing((2, 2, 2, 2)),
    "iresnet100": insightface_listing((3, 13, 30, 3)),
    # of these the facts hold no listing; those above vouch for the way it is written out
    "ir_34": adaface_listing((3, 4, 6, 3)),
    "ir_152": adaface_listing((3, 8, 36, 3), bottleneck=True),
    "ir_se_50": adaface_listing((3, 4, 14, 3), squeeze=True),
    "iresnet34": insightface_listing((3, 4, 6, 3)),
    "iresnet152": insightface_listing((3, 8, 36, 3)),
    "iresnet200": insightface_listing((6, 26, 60, 6)),
    "mbf": mobile_listing((1, 4, 6, 2), 2),
    "mbf_large": mobile_listing((2, 8, 12, 4), 4),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_layout_is_what_the_facts_say(name):
    state = create_on_meta(name).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert shapes == LISTINGS[name]


def shuffled(name):
    """A network whose every weight and statistic is away from its initial value."""
    network = create_backbone(name)
    generator = torch.Generator().manual_seed(1)
    for entry, tensor in network.state_dict().items():
        if tensor.dim() == 1:
            tensor.copy_(torch.empty_like(tensor).uniform_(0.5, 1.5, generator=generator))
        elif entry.endswith("weight"):
            tensor.mul_(0.5)
    return network.eval()


def norm(x, state, name):
    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    return F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], weight, bias, eps=1e-5)


def adaface_forward(state, x, depths):
    x = F.conv2d(x, state["input_layer.0.weight"], padding=1)
    x = F.prelu(norm(x, state, "input_layer.1"), state["input_layer.2.weight"])
    strides = [stride for depth in depths for stride in [2] + [1] * (depth - 1)]
    for block, stride in enumerate(strides):
        at = f"body.{block}.res_layer"
        y = F.conv2d(norm(x, state, f"{at}.0"), state[f"{at}.1.weight"], padding=1)
        y = F.prelu(norm(y, state, f"{at}.2"), state[f"{at}.3.weight"])
        y = norm(F.conv2d(y, state[f"{at}.4.weight"], stride=stride, padding=1), state, f"{at}.5")
        short = f"body.{block}.shortcut_layer"
        if f"{short}.0.weight" in state:
            x = norm(F.conv2d(x, state[f"{short}.0.weight"], stride=stride), state, f"{short}.1")
        else:
            x = x[:, :, ::stride, ::stride]
        x = x + y
    x = norm(x, state, "output_layer.0").flatten(1)
    return norm(F.linear(x, state["output_layer.3.weight"], state["output_layer.3.bias"]), state, "output_layer.4")


def insightface_forward(state, x, depths, stem_stride):
    x = F.conv2d(x, state["conv1.weight"], stride=stem_stride, padding=1)
    x = F.prelu(norm(x, state, "bn1"), state["prelu.weight"])
    for stage, depth in enumerate(depths):
        for block in range(depth):
            at, stride = f"layer{stage + 1}.{block}", 2 if block == 0 else 1
            y = F.conv2d(norm(x, state, f"{at}.bn1"), state[f"{at}.conv1.weight"], padding=1)
            y = F.prelu(norm(y, state, f"{at}.bn2"), state[f"{at}.prelu.weight"])
            y = norm(F.conv2d(y, state[f"{at}.conv2.weight"], stride=stride, padding=1), state, f"{at}.bn3")
            if block == 0:
                x = norm(F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride), state, f"{at}.downsample.1")
            x = x + y
    x = norm(x, state, "bn2").flatten(1)
    return norm(F.linear(x, state["fc.weight"], state["fc.bias"]), state, "features")


def lresnet_forward(state, x, depths):
    """SynFace's `resnets.py`, of 112x96 px."""
    x = F.prelu(norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"), state["prelu1.weight"])
    for stage, depth in enumerate(depths):
        for block in range(depth):
            at, stride = f"layer{stage + 1}.{block}", 2 if block == 0 else 1
            y = F.conv2d(norm(x, state, f"{at}.bn1"), state[f"{at}.conv1.weight"], padding=1)
            y = F.prelu(norm(y, state, f"{at}.bn2"), state[f"{at}.prelu1.weight"])
            y = norm(F.conv2d(y, state[f"{at}.conv2.weight"], stride=stride, padding=1), state, f"{at}.bn3")
            if block == 0:
                x = norm(F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride), state, f"{at}.downsample.1")
            x = x + y
    x = norm(x, state, "fc.0").flatten(1)
    return norm(F.linear(x, state["fc.3.weight"], state["fc.3.bias"]), state, "fc.4")


def mobile_forward(state, x, depths):
    """insightface's `mobilefacenet.py`."""

    def conv(at, x, stride=1):
        weight = state[f"{at}.layers.0.weight"]
        active = f"{at}.layers.2.weight" in state
        groups, padding = x.shape[1] // weight.shape[1], weight.shape[2] // 2 if active else 0
        x = norm(F.conv2d(x, weight, stride=stride, padding=padding, groups=groups), state, f"{at}.layers.1")
        return F.prelu(x, state[f"{at}.layers.2.weight"]) if active else x

    def bottleneck(at, x, stride):
        return conv(f"{at}.layers.2", conv(f"{at}.layers.1", conv(f"{at}.layers.0", x), stride))

    x = conv("layers.1", conv("layers.0", x, 2))
    for stage, depth in enumerate(depths[1:], 1):
        x = bottleneck(f"layers.{2 * stage}", x, 2)
        for block in range(depth):
            x = x + bottleneck(f"layers.{2 * stage + 1}.layers.{block}", x, 1)
    x = conv("features.layers.0", conv("conv_sep", x)).flatten(1)
    return norm(x @ state["features.layers.2.weight"].T, state, "features.layers.3")


def test_lresnet_sees_the_middle_of_a_square_crop(monkeypatch):
    """The template of 112x112 is that of 112x96 moved by 8 px: a square image and its middle have one embedding."""
    monkeypatch.setitem(BACKBONES, "LResNet50E_IR", lambda: LResNet((1, 2, 1, 1)))
    network = shuffled("LResNet50E_IR")
    images = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        embedding = network(images)
        torch.testing.assert_close(network(images[..., 8:104]), embedding)
        expected = lresnet_forward(network.state_dict(), images[..., 8:104], (1, 2, 1, 1))
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)
    assert embedding.shape == (1, 512)


def test_lresnets_gradients_are_those_of_the_written_out_network():
    network = LResNet((1, 1, 1, 1)).eval()
    images = torch.rand(1, 3, 112, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for name, _ in network.named_parameters():
        state[name].requires_grad_()
    network(images)[0, :5].sum().backward()
    lresnet_forward(state, images, (1, 1, 1, 1))[0, :5].sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-3, atol=1e-5, msg=name)


def test_loads_an_official_synface_checkpoint(tmp_path):
    """`model_best.pth.tar`, of its `utils.py`: the network beside the head."""
    state = LResNet((3, 4, 14, 3)).state_dict()
    torch.save({"state_dict": state, "classifier": {"weight": torch.zeros(3, 512)}}, tmp_path / "model_best.pth.tar")
    loaded, card = load_backbone(tmp_path / "model_best.pth.tar")
    assert card == Card("LResNet50E_IR", 512, channels="rgb")
    assert torch.equal(loaded.fc[3].weight, state["fc.3.weight"])
    del state["fc.4.bias"]
    torch.save({"state_dict": state}, tmp_path / "less.pth.tar")
    with pytest.raises(StoreError, match=r"of LResNet50E_IR, the nearest, it lacks fc.4.bias \(1\)"):
        load_backbone(tmp_path / "less.pth.tar")


def test_loads_an_official_mobilefacenet(tmp_path):
    torch.save(create_backbone("mbf").state_dict(), tmp_path / "model.pt")
    assert load_backbone(tmp_path / "model.pt")[1] == Card("mbf", 512, channels="rgb")


def test_bottleneck_and_squeeze_written_out():
    torch.manual_seed(0)
    block = IRBlock(32, 64, 2, bottleneck=True, squeeze=True).eval()
    state = block.state_dict()
    for tensor in state.values():
        if tensor.dim() == 1:
            tensor.copy_(torch.empty_like(tensor).uniform_(0.5, 1.5))
    x = torch.randn(2, 32, 8, 8)
    y = F.conv2d(norm(x, state, "res_layer.0"), state["res_layer.1.weight"])
    y = F.prelu(norm(y, state, "res_layer.2"), state["res_layer.3.weight"])
    y = F.conv2d(y, state["res_layer.4.weight"], padding=1)
    y = F.prelu(norm(y, state, "res_layer.5"), state["res_layer.6.weight"])
    y = norm(F.conv2d(y, state["res_layer.7.weight"], stride=2), state, "res_layer.8")
    weights = F.relu(y.mean((2, 3)) @ state["res_layer.se_block.fc1.weight"][:, :, 0, 0].T)
    weights = torch.sigmoid(weights @ state["res_layer.se_block.fc2.weight"][:, :, 0, 0].T)
    short = norm(F.conv2d(x, state["shortcut_layer.0.weight"], stride=2), state, "shortcut_layer.1")
    with torch.no_grad():
        torch.testing.assert_close(block(x), short + y * weights[:, :, None, None])


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("ir_18", lambda state, x: adaface_forward(state, x, (2, 2, 2, 2))),
        ("iresnet18", lambda state, x: insightface_forward(state, x, (2, 2, 2, 2), 1)),
        ("iresnet_tiny", lambda state, x: insightface_forward(state, x, (2, 2, 2), 2)),
        ("mbf", lambda state, x: mobile_forward(state, x, (1, 4, 6, 2))),
    ],
)
def test_forward_is_the_raw_embedding_of_the_written_out_network(name, forward):
    network = shuffled(name)
    images = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        embedding, expected = network(images), forward(network.state_dict(), images)
    assert embedding.shape == (1, network.embedding)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)
    assert abs(embedding.norm() - 1) > 0.1


def test_the_last_norm_of_insightface_keeps_weight_one():
    assert not create_backbone("iresnet_tiny").features.weight.requires_grad


def test_unknown_name():
    with pytest.raises(ParamsError, match=r"resnet7.*iresnet_tiny"):
        create_backbone("resnet7")


def test_normalise():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 2, 4, 3)
    assert normalise(images).shape == (1, 3, 2, 4)
    torch.testing.assert_close(normalise(images)[0, :, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))
    torch.testing.assert_close(normalise(images, "bgr")[0, :, 0, 0], torch.tensor([1.0, -0.6, -1.0]))


def test_save_and_load(tmp_path):
    network = shuffled("iresnet_tiny")
    card = Card("iresnet_tiny", network.embedding, identities=3, images=9, head="cosface", fingerprint="f")
    save_backbone(tmp_path / "a.safetensors", network, card)
    save_backbone(tmp_path / "b.safetensors", network.to(memory_format=torch.channels_last), card)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded, read = load_backbone(tmp_path / "a.safetensors")
    assert read == card
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_loads_an_official_adaface_checkpoint(tmp_path):
    network = create_backbone("ir_18")
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": {**state, "head.kernel": torch.zeros(512, 4)}, "epoch": 25}, tmp_path / "ada.ckpt")
    loaded, card = load_backbone(tmp_path / "ada.ckpt")
    assert card == Card("ir_18", 512, channels="bgr")
    assert torch.equal(loaded.output_layer[3].weight, network.output_layer[3].weight)


def test_loads_an_official_insightface_checkpoint(tmp_path):
    network = create_backbone("iresnet18")
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    loaded, card = load_backbone(tmp_path / "backbone.pth")
    assert card == Card("iresnet18", 512, channels="rgb")
    assert torch.equal(loaded.fc.weight, network.fc.weight)


@pytest.fixture(scope="module")
def tiny():
    return shuffled("iresnet_tiny").state_dict()


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "saved",
    [
        lambda state: state,
        lambda state: under("module.", state),
        lambda state: under("_orig_mod.", state),
        lambda state: under("module._orig_mod.", state),
        lambda state: under("backbone.", state),
        lambda state: under("backbone.", state) | {"head.kernel": torch.zeros(3)},
        lambda state: {
            "epoch": 1,
            "state_dict_backbone": state,
            "state_dict_softmax_fc": {"weight": torch.zeros(3, 4)},
        },
        lambda state: {"state_dict": under("model.", state) | {"head.t": torch.zeros(1)}},
        lambda state: {"model": {"net": under("module.", state)}, "optimizer": {"state": {0: {"m": torch.zeros(2)}}}},
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
        lambda state: {name: value for name, value in state.items() if name != "bn1.num_batches_tracked"},
        lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
    ],
    ids=[
        "bare",
        "module",
        "compiled",
        "both",
        "backbone",
        "beside-a-head",
        "gpu0",
        "lightning",
        "deep",
        "old",
        "part",
        "half",
    ],
)
def test_the_same_weights_as_people_save_them(tmp_path, tiny, saved):
    torch.save(saved(tiny), tmp_path / "a.pth")
    network, card = load_backbone(tmp_path / "a.pth")
    assert card == Card("iresnet_tiny", 256, channels="rgb")
    assert torch.equal(network.prelu.weight, tiny["prelu.weight"].half().float()) or torch.equal(
        network.prelu.weight, tiny["prelu.weight"]
    )
    names = [name for name in tiny if not name.endswith("num_batches_tracked")]
    for name in names:
        torch.testing.assert_close(network.state_dict()[name], tiny[name], rtol=1e-3, atol=1e-3)


def test_safetensors_without_a_card(tmp_path, tiny):
    save_file(under("module.", tiny), tmp_path / "a.safetensors")
    network, card = load_backbone(tmp_path / "a.safetensors")
    assert card == Card("iresnet_tiny", 256, channels="rgb")
    assert torch.equal(network.fc.weight, tiny["fc.weight"])


def made_of_nothing(name):
    """A network's tensors of no memory."""
    state = create_on_meta(name).state_dict()
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}


def test_the_order_of_the_channels_is_that_of_who_trained_it():
    for prefix, channels in (("", "bgr"), ("model.", "bgr"), ("net.", "rgb"), ("model.net.", "rgb")):  # net.: CVLface
        (found,) = find_networks({"state_dict": under(prefix, made_of_nothing("ir_50"))})
        assert (found.backbone, found.card.channels) == ("ir_50", channels)
    (found,) = find_networks(made_of_nothing("iresnet200"))
    assert (found.backbone, found.card.channels) == ("iresnet200", "rgb")


def test_two_networks_in_a_file_are_not_chosen_from(tmp_path, tiny):
    torch.save({"model": tiny, "ema": under("module.", tiny)}, tmp_path / "a.pth")
    with pytest.raises(StoreError, match=r"several networks, iresnet_tiny \(model\), iresnet_tiny \(ema module.\)"):
        load_backbone(tmp_path / "a.pth")


def test_weights_that_are_not_finite_are_refused(tmp_path, tiny):
    state = dict(tiny)
    state["bn2.running_var"] = torch.full_like(tiny["bn2.running_var"], float("inf"))
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(StoreError, match=r"a.pth: bn2.running_var holds numbers that are not finite"):
        load_backbone(tmp_path / "a.pth")


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


def test_refuses_a_checkpoint_that_would_run_code(tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(StoreError, match=r"evil.ckpt: holds more than tensors.*weights_only=False"):
        load_backbone(tmp_path / "evil.ckpt")
    assert not Payload.ran


def test_refuses_broken_files(tmp_path):
    with pytest.raises(StoreError, match="no such checkpoint"):
        load_backbone(tmp_path / "none.safetensors")
    save_backbone(tmp_path / "whole.safetensors", create_backbone("iresnet_tiny"), Card("iresnet_tiny", 256))
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"half.safetensors: not a readable safetensors file"):
        load_backbone(tmp_path / "half.safetensors")
    for content in (b"", b"text", pickle.dumps([1])):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(StoreError, match=r"bad.pth: (not a readable|holds no)"):
            load_backbone(tmp_path / "bad.pth")


def test_refuses_other_weights(tmp_path):
    save_backbone(tmp_path / "a.safetensors", create_backbone("iresnet_tiny"), Card("iresnet18", 512))
    with pytest.raises(StoreError, match=r"not the weights of iresnet18"):
        load_backbone(tmp_path / "a.safetensors")
    save_backbone(tmp_path / "b.safetensors", create_backbone("iresnet_tiny"), Card("vgg", 512))
    with pytest.raises(StoreError, match=r"'vgg' that sees 'rgb'; known are ir_18"):
        load_backbone(tmp_path / "b.safetensors")
    save_backbone(tmp_path / "d.safetensors", create_backbone("iresnet_tiny"), Card("iresnet_tiny", 256, "gbr"))
    with pytest.raises(StoreError, match="sees 'gbr'"):
        load_backbone(tmp_path / "d.safetensors")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(StoreError, match=r"1 entries \(conv1.weight.*weights of none of"):
        load_backbone(tmp_path / "c.pth")


def test_what_is_nearly_a_network_is_told_what_it_lacks_and_has(tmp_path, tiny):
    state = {name: value for name, value in tiny.items() if name != "layer2.0.prelu.weight"}
    torch.save({"state_dict": under("module.", state | {"extra": torch.zeros(1)})}, tmp_path / "a.pth")
    with pytest.raises(
        StoreError, match=r"of iresnet_tiny, the nearest, it lacks layer2.0.prelu.weight \(1\) and has extra \(1\)"
    ):
        load_backbone(tmp_path / "a.pth")


def test_every_backbone_differs():
    layouts = {tuple(create_on_meta(name).state_dict()) for name in BACKBONES}
    assert len(layouts) == len(BACKBONES)
