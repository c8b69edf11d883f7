"""Files in the official layouts, made up from the listings in tests/state_dicts, load with no name left over.

A listing has a line for each tensor of the published network: name, shape, dtype. Each tensor of a made-up file holds
one number, its own, repeated without memory, so that the files are small and every value can be found again.
"""

import ast
import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from typer.testing import CliRunner

from stages.align.mtcnn import ONet, PNet, RNet
from stages.cli import app
from stages.evaluate.embeddings import load_network
from stages.evaluate.inspect import describe
from stages.store import StoreError
from stages.train.backbones import load_backbone
from tests.evaluate.conftest import jpeg
from tests.transfer.arc2face.tiny import SD15_TEXT, SD15_UNET, SD15_VAE

LISTINGS = Path(__file__).parent / "state_dicts"
BACKBONES = {
    "ir_18": "adaface_ir_18",
    "ir_50": "adaface_ir_50",
    "ir_101": "adaface_ir_101",
    "iresnet18": "insightface_iresnet18",
    "iresnet50": "insightface_iresnet50",
    "iresnet100": "insightface_iresnet100",
}
OTHERS = {
    "mtcnn_pnet": PNet,
    "mtcnn_rnet": RNet,
    "mtcnn_onet": ONet,
    "sd15_unet": lambda: UNet2DConditionModel(**SD15_UNET),
    "sd15_vae": lambda: AutoencoderKL(**SD15_VAE),
    "arc2face_encoder_CLIPTextModel": lambda: CLIPTextModel(CLIPTextConfig(**SD15_TEXT)),
}


def made_up(listing: str) -> dict[str, torch.Tensor]:
    """Tensor k of the listing, of its shape and dtype, is k / 2^14 everywhere, or k if it is an integer."""
    state = {}
    for number, line in enumerate((LISTINGS / f"{listing}.txt").read_text().splitlines(), 1):
        name, shape, dtype = line.split("\t")
        kind = getattr(torch, dtype)
        value = number / 2**14 if kind.is_floating_point else number
        state[name] = torch.full((), value, dtype=kind).expand(ast.literal_eval(shape))
    return state


@pytest.fixture
def model_checkpoint(monkeypatch) -> type:
    """The class by which Lightning before 1.5 keys a callback's state; here only while the file is written."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    made = type("ModelCheckpoint", (), {"__module__": name})
    module = types.ModuleType(name)
    module.ModelCheckpoint = made
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    return made


def write_official(path: Path, name: str, callback: object) -> Path:
    """insightface's `.pth` is the bare state_dict; AdaFace's `.ckpt` is Lightning's, with the head and much else."""
    state = made_up(BACKBONES[name])
    if not name.startswith("ir_"):
        torch.save(state, path / "backbone.pth")
        return path / "backbone.pth"
    head = {
        "head.kernel": torch.zeros(()).expand(512, 205990),
        "head.t": torch.zeros(1),
        "head.batch_mean": torch.full((1,), 20.0),
        "head.batch_std": torch.full((1,), 100.0),
    }
    checkpoint = {
        "epoch": 25,
        "global_step": 1_000,
        "pytorch-lightning_version": "1.4.0",
        "callbacks": {callback: {"monitor": "val_acc", "best_model_score": torch.tensor(0.99)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"milestones": [12, 20, 24], "_last_lr": [1e-4]}],
        "state_dict": {**state, **head},
        "hparams_name": "kwargs",
        "hyper_parameters": {"arch": name, "head": "adaface", "m": 0.4},
    }
    torch.save(checkpoint, path / "official.ckpt")
    return path / "official.ckpt"


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_load_strictly(tmp_path, name, model_checkpoint):
    path = write_official(tmp_path, name, model_checkpoint)
    network, card = load_backbone(path)
    loaded = network.state_dict()
    wanted = {key.removeprefix("model."): value for key, value in made_up(BACKBONES[name]).items()}
    assert loaded.keys() == wanted.keys()
    for key, value in wanted.items():
        assert loaded[key].dtype == value.dtype, key
        assert torch.equal(loaded[key], value), key
    adaface = name.startswith("ir_")
    assert (card.backbone, card.embedding, card.channels) == (name, 512, "bgr" if adaface else "rgb")

    facts = dict(line.split(": ", 1) for line in describe(path).splitlines())
    assert facts["network"] == f"{name} ({'AdaFace' if adaface else 'insightface'}'s layout)"
    assert facts["entries"] == str(len(wanted))


@pytest.mark.parametrize("name", ["ir_18", "iresnet18"])
@pytest.mark.parametrize("change", ["one too few", "one too many", "another shape"])
def test_a_layout_that_differs_in_one_name_or_shape_is_refused(tmp_path, name, change, model_checkpoint):
    path = write_official(tmp_path, name, model_checkpoint)
    content = torch.load(path, weights_only=False)
    state = content.get("state_dict", content)
    key = next(key for key in state if key.endswith("running_mean"))
    if change == "one too few":
        del state[key]
    elif change == "one too many":
        state[f"{key}.x"] = state[key]
    else:
        state[key] = torch.zeros(7)
    torch.save(content, path)
    with pytest.raises(StoreError, match=f"{path.name}: .*weights of"):
        load_backbone(path)


@pytest.mark.parametrize("listing", OTHERS)
def test_other_networks_load_strictly(listing):
    """On the meta device, so that Stable Diffusion's 860 million weights take no memory."""
    with torch.device("meta"):
        network = OTHERS[listing]()
    prefix = "" if any(name.startswith("text_model.") for name in network.state_dict()) else "text_model."
    state = {name.removeprefix(prefix): value.to("meta") for name, value in made_up(listing).items()}
    network.load_state_dict(state, strict=True, assign=True)
    for name, value in network.state_dict().items():
        assert value.dtype == state[name].dtype, name


def test_the_command_line_measures_and_describes_an_official_checkpoint(tmp_path, model_checkpoint, monkeypatch):
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))
    path = write_official(tmp_path, "ir_18", model_checkpoint)
    images = [jpeg(number // 2 if number % 4 < 2 else number) for number in range(40)]
    benchmark = tmp_path / "small.bin"
    benchmark.write_bytes(pickle.dumps((images, [pair % 2 == 0 for pair in range(20)])))
    arguments = ["evaluate", "--backbone", path, "--benchmark", benchmark, "--out", tmp_path / "out.json"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert 0 <= numbers["small"] <= 100
    assert numbers["protocol"] == "insightface"
    assert load_network(path).channels == "bgr"

    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    assert "network: ir_18 (AdaFace's layout)" in result.output
    assert "channels: bgr" in result.output


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


def test_code_under_lightnings_name_does_not_run(tmp_path, model_checkpoint, monkeypatch):
    """A stand-in takes the place of whatever bears the name, a function as well."""
    model_checkpoint.__reduce__ = lambda self: (model_checkpoint, ("rm",))
    made = []
    model_checkpoint.__init__ = lambda self, *arguments: made.append(arguments)
    checkpoint = {"state_dict": made_up("insightface_iresnet18"), "callbacks": [model_checkpoint()]}
    made.clear()
    torch.save(checkpoint, tmp_path / "a.ckpt")
    load_backbone(tmp_path / "a.ckpt")
    assert not made
    torch.save({**checkpoint, "more": Payload()}, tmp_path / "b.ckpt")
    with pytest.raises(StoreError, match=r"b\.ckpt: holds more than tensors \(.*builtins\.setattr"):
        load_backbone(tmp_path / "b.ckpt")
    assert not Payload.ran
