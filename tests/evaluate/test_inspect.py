import pytest
import torch
from safetensors.torch import save_file

from stages.embed.encoder import Encoder
from stages.evaluate.inspect import describe
from stages.store import StoreError
from stages.train.backbones import create_backbone
from tests.embed.onnx_files import one_layer


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


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda state: {f"module.{name}": value for name, value in state.items()}, "module."),
        (lambda state: {"epoch": 3, "state_dict_backbone": state, "state_dict_softmax_fc": {}}, "state_dict_backbone"),
    ],
)
def test_a_network_is_found_where_evaluate_finds_it(tmp_path, wrap, place):
    torch.save(wrap(create_backbone("iresnet18").state_dict()), tmp_path / "net.pth")
    found = facts(tmp_path / "net.pth")
    assert (found["network"], found["place"]) == ("iresnet18 (insightface's layout)", place)


def test_the_names_of_a_network_with_other_sizes(tmp_path):
    state = create_backbone("iresnet18").state_dict()
    torch.save(state | {"fc.weight": torch.zeros(256, 25088)}, tmp_path / "net.pth")
    assert facts(tmp_path / "net.pth")["network"] == "unknown: iresnet18's names, and other sizes, first fc.weight"


@pytest.mark.parametrize("prefix", ["text_model.", ""])  # transformers writes none from 5.6 on
def test_a_text_tower(tmp_path, prefix):
    save_file({f"{prefix}embeddings.token_embedding.weight": torch.zeros(2, 3)}, tmp_path / "a.safetensors")
    assert facts(tmp_path / "a.safetensors")["network"].startswith("a CLIP text encoder")


SUB_MUL = [("Sub", 127.5, "_minus0"), ("Mul", 1 / 127.5, "_mul0")]
RAW, SCALED = "rgb, 0 to 255: it normalises itself", "rgb, (x - 127.5) / 127.5"


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ({}, {"channels": SCALED, "embedding": "embedding", "batch": "any"}),
        ({"shape": (1, 112, 112, 3)}, {"channels": SCALED, "batch": "1", "order": "height, width, channels"}),
        ({"steps": SUB_MUL}, {"channels": RAW}),
        (
            {"steps": [(*step[:2], "") for step in SUB_MUL]},
            {"channels": RAW, "insightface": f"by its nodes' names {SCALED}"},
        ),
        ({"act": "_7"}, {"channels": SCALED, "insightface": f"by its nodes' names {RAW}"}),
        (
            {"outputs": ("norm", "embedding")},
            {"outputs": "norm ['n', 1], embedding ['n', 16]", "embedding": "embedding"},
        ),
        ({"shape": ("n", 3, 96, 96)}, {"encoder": "no, takes x [n, 3, 96, 96] of float32; [n, 3, 112, 112] or "}),
    ],
)
def test_an_onnx_file_is_fed_as_inspect_says(tmp_path, form, wanted):
    path = one_layer(tmp_path / "a.onnx", **form)
    found = facts(path)
    assert {name: found[name][: len(text)] for name, text in wanted.items()} == wanted
    assert found.keys() & {"insightface", "order", "encoder"} == wanted.keys() & {"insightface", "order", "encoder"}
    if "channels" in wanted:
        assert Encoder(path).model.input_std == {RAW: 1.0, SCALED: 127.5}[found["channels"]]


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


def test_a_folder_and_a_text_are_named_as_such(tmp_path):
    with pytest.raises(StoreError, match="a folder; name a weights file"):
        describe(tmp_path)
    (tmp_path / "notes.txt").write_text("of no use")
    with pytest.raises(StoreError, match=r"notes\.txt: no weights file, neither torch's nor"):
        describe(tmp_path / "notes.txt")


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(StoreError, match=r"holds more than tensors \(builtins\.print\)"):
        describe(tmp_path / "evil.ckpt")
    assert not capsys.readouterr().out
