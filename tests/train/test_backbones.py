import hashlib
import pickle

import pytest
import torch
from torch.nn import functional as F

from stages.params import ParamsError
from stages.store import StoreError
from stages.train.backbones import (
    BACKBONES,
    Card,
    create_backbone,
    create_on_meta,
    load_backbone,
    normalise,
    save_backbone,
)

# Of the official checkpoints: trained parameters, and entries of the state_dict and a digest of their names and shapes.
OFFICIAL = {
    "ir_18": (24_020_352, 179, "dd17eeea90b3bf1618e4f3996663f7f670833bdfc59fd3d5e4382152174fb438"),
    "ir_50": (43_585_600, 467, "5a66afad9bda4427518540d345be43c42add82d1df5ee382bd9f869bed60ce69"),
    "ir_101": (65_150_912, 917, "1a0fcd7e1f9e28dbdb6545217740ee95ab41d00078875dafd470a1ade11bf2f8"),
    "iresnet18": (24_025_600, 187, "8a1772fbc5b63d10ef4994d67117761ba40403f7e6b34036bf620958384ece96"),
    "iresnet50": (43_590_848, 475, "8b10e3d3ada4f9845a2d8f58601cebc21ab5de8756a74070634ffe0e01874be6"),
    "iresnet100": (65_156_160, 925, "ad0e1bc1440bb2bd8258aa506adfd4b89a6b9268da8d6db79d19938d57b7e268"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_layout_is_the_official_one(name):
    network = create_on_meta(name)
    state = network.state_dict()
    listing = "".join(sorted(f"{entry} {tuple(tensor.shape)}\n" for entry, tensor in state.items()))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (parameters, len(state), hashlib.sha256(listing.encode()).hexdigest()) == OFFICIAL[name]


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


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("ir_18", lambda state, x: adaface_forward(state, x, (2, 2, 2, 2))),
        ("iresnet18", lambda state, x: insightface_forward(state, x, (2, 2, 2, 2), 1)),
        ("iresnet_tiny", lambda state, x: insightface_forward(state, x, (2, 2, 2), 2)),
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
    with pytest.raises(StoreError, match=r"'vgg', which is none of"):
        load_backbone(tmp_path / "b.safetensors")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(StoreError, match=r"1 entries \(conv1.weight.*weights of none of"):
        load_backbone(tmp_path / "c.pth")


def test_every_backbone_differs():
    layouts = {tuple(create_on_meta(name).state_dict()) for name in BACKBONES}
    assert len(layouts) == len(BACKBONES)
