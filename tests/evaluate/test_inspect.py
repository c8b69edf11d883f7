import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from stages.evaluate.inspect import describe
from stages.store import StoreError
from stages.train.backbones import create_backbone


def facts(path) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in describe(path).splitlines())


def test_our_checkpoint(backbone):
    found = facts(backbone)
    parameters = sum(p.numel() for p in create_backbone("iresnet_tiny").parameters())
    assert found["network"] == "iresnet_tiny"
    assert found["channels"] == "rgb"
    assert found["embedding"] == "256"
    assert found["parameters"] == f"{parameters:,}"


@pytest.mark.parametrize(
    ("name", "channels", "parameters"), [("ir_18", "bgr", "24,020,352"), ("iresnet18", "rgb", "24,025,600")]
)
def test_official_layouts(tmp_path, name, channels, parameters):
    state = create_backbone(name).state_dict()
    if name == "ir_18":
        state = {
            "state_dict": {
                **{f"model.{key}": value for key, value in state.items()},
                "head.kernel": torch.zeros(512, 9),
            }
        }
    torch.save(state, tmp_path / "net.pth")
    found = facts(tmp_path / "net.pth")
    assert found["network"].startswith(name + " ")
    assert found["channels"].startswith(channels)
    assert found["parameters"] == parameters


def test_another_network(tmp_path):
    torch.save({"epoch": 2, "names": ["a"]}, tmp_path / "a.pth")
    assert facts(tmp_path / "a.pth") == {"file": "a.pth, 0.0 MiB"} | {
        "format": "torch checkpoint",
        "network": "unknown",
        "keys": "epoch, names",
    }
    torch.save([1, 2], tmp_path / "b.pth")
    assert facts(tmp_path / "b.pth")["keys"] == "list"
    torch.save({"params_ema": {"position_emb": torch.zeros(256, 512)}, "epoch": 1}, tmp_path / "c.pth")
    assert facts(tmp_path / "c.pth")["network"] == "CodeFormer"
    torch.save({"g_ema": {"to_rgb1.conv.modulation.weight": torch.zeros(3)}, "latent_avg": 0}, tmp_path / "d.pt")
    assert facts(tmp_path / "d.pt")["network"] == "a StyleGAN2 generator (rosinality)"
    save_file({"position_emb": torch.zeros(256, 512)}, tmp_path / "a.safetensors")
    found = facts(tmp_path / "a.safetensors")
    assert (found["network"], found["entries"], found["parameters"]) == ("CodeFormer", "1", "131,072")


def test_onnx(tmp_path, backbone):
    from stages.train.backbones import load_backbone

    path = tmp_path / "a.onnx"
    torch.onnx.export(
        load_backbone(backbone)[0], (torch.zeros(1, 3, 112, 112),), path, dynamo=False, input_names=["data"]
    )
    found = facts(path)
    assert found["format"] == "ONNX"
    assert found["inputs"] == "data [1, 3, 112, 112]"
    assert found["channels"] == "rgb, (x - 127.5) / 127.5"


def test_an_onnx_encoder_that_normalises_itself(tmp_path):
    value, node = helper.make_tensor_value_info, helper.make_node
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 3, 1, 1], [127.5] * 3) for name in ("mean", "scale")]
    inputs = [value("data", TensorProto.FLOAT, ["n", 3, 112, 112]), value("mean", TensorProto.FLOAT, [1, 3, 1, 1])]
    nodes = [node("Sub", ["data", "mean"], ["a"]), node("Mul", ["a", "scale"], ["b"])]
    graph = helper.make_graph(nodes, "g", inputs, [value("b", TensorProto.FLOAT, ["n", 3, 112, 112])], weights)
    onnx.save(helper.make_model(graph), tmp_path / "a.onnx")
    found = facts(tmp_path / "a.onnx")
    assert found["inputs"] == "data ['n', 3, 112, 112]"
    assert found["channels"] == "rgb, 0 to 255: it normalises itself"
    assert (found["nodes"], found["parameters"]) == ("2", "6")


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("name", ["a.pth", "a.onnx", "a.safetensors"])
def test_files_that_are_none(tmp_path, name):
    with pytest.raises(StoreError, match="no such file"):
        describe(tmp_path / name)
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(StoreError, match=name):
        describe(tmp_path / name)


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(StoreError, match=r"holds more than tensors \(builtins\.print\)"):
        describe(tmp_path / "evil.ckpt")
    assert not capsys.readouterr().out
