"""IResNet backbones in both official layouts: AdaFace's (`ir_*`) and insightface's (`iresnet*`).

The two are not weight-compatible: where a block keeps its width, AdaFace's shortcut is a pooling and insightface's a
convolution, and the last batch norm is plain in one and affine in the other. The modules bear the official state_dict
names (AdaFace `net.py`, insightface `recognition/arcface_torch/backbones/iresnet.py`), so that official weights load
strictly. `iresnet_tiny` is this project's own, small enough for two CPU cores.

Every network maps [n, 3, 112, 112] in [-1, 1] to the raw embedding [n, d]. AdaFace's official network returns the unit
embedding and its norm; here the heads divide, and whoever compares embeddings normalises them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.params import ParamsError
from stages.store import StoreError, replacing

SIZE = 112  # px


class BasicBlockIR(nn.Module):
    """AdaFace's residual block: [n, c, h, w] -> [n, width, h/stride, w/stride]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if channels == width:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(_conv(channels, width, stride, kernel=1), nn.BatchNorm2d(width))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            _conv(channels, width),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            _conv(width, width, stride),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus residual."""
        return self.shortcut_layer(x) + self.res_layer(x)


class IR(nn.Module):
    """AdaFace's IResNet (`net.py`, `Backbone`): raw embedding [n, 512].

    Args:
        depths: blocks of each of the four stages.
    """

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        self.embedding = 512
        widths = [64, 128, 256, 512]
        self.input_layer = nn.Sequential(_conv(3, 64), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks = []
        for channels, width, depth in zip([64, *widths], widths, depths, strict=False):
            blocks += [BasicBlockIR(channels, width, 2), *(BasicBlockIR(width, width, 1) for _ in range(depth - 1))]
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512, affine=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, 112, 112] in [-1, 1] -> raw embedding [n, 512]."""
        return self.output_layer(self.body(self.input_layer(images)))


class IBasicBlock(nn.Module):
    """insightface's residual block: [n, c, h, w] -> [n, width, h/stride, w/stride]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = _conv(channels, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = _conv(width, width, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(_conv(channels, width, stride, kernel=1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus residual."""
        residual = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(residual)) + self.downsample(x)


class IResNet(nn.Module):
    """insightface's IResNet (`iresnet.py`): raw embedding [n, d].

    Args:
        depths: blocks of each stage; a stage halves the image.
        widths: channels of each stage.
        stem_stride: 1 officially; 2 looks at the image in half its size.
        embedding: d.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_stride: int = 1,
        embedding: int = 512,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.conv1 = _conv(3, widths[0], stem_stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        for stage, (channels, width) in enumerate(pairwise([widths[0], *widths])):
            rest = [IBasicBlock(width, width, 1) for _ in range(depths[stage] - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(IBasicBlock(channels, width, 2), *rest))
        self.stages = len(widths)
        side = SIZE // stem_stride // 2**self.stages
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1] * side * side, embedding)
        self.features = nn.BatchNorm1d(embedding)
        self.features.weight.requires_grad = False  # stays 1
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, 112, 112] in [-1, 1] -> raw embedding [n, d]."""
        x = self.prelu(self.bn1(self.conv1(images)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def _conv(channels: int, width: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)


Backbone = IR | IResNet
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "ir_18": lambda: IR((2, 2, 2, 2)),
    "ir_50": lambda: IR((3, 4, 14, 3)),
    "ir_101": lambda: IR((3, 13, 30, 3)),
    "iresnet18": lambda: IResNet((2, 2, 2, 2)),
    "iresnet50": lambda: IResNet((3, 4, 14, 3)),
    "iresnet100": lambda: IResNet((3, 13, 30, 3)),
    "iresnet_tiny": lambda: IResNet((2, 2, 2), widths=(32, 64, 128), stem_stride=2, embedding=256),
}


def create_backbone(name: str) -> Backbone:
    """A new network by name (`BACKBONES`), officially initialised; its `embedding` is d.

    Raises:
        ParamsError: no such network.
    """
    if name not in BACKBONES:
        raise ParamsError(f"backbone {name!r}: one of {', '.join(BACKBONES)}")
    return BACKBONES[name]()


def normalise(images: Tensor, channels: str = "rgb") -> Tensor:
    """What a network sees: [n, h, w, 3] uint8 RGB -> [n, 3, h, w] float32 in [-1, 1], (x / 255 - 0.5) / 0.5."""
    if channels == "bgr":
        images = images.flip(-1)
    return (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


@dataclass(frozen=True)
class Card:
    """What a checkpoint is."""

    backbone: str  # a name of BACKBONES
    embedding: int  # d
    channels: str = "rgb"  # rgb | bgr: the order the network was trained on
    size: int = SIZE  # px, square
    identities: int | None = None  # it was trained on; None where the file does not say
    images: int | None = None
    head: str | None = None
    fingerprint: str | None = None  # of the training run


def save_backbone(path: Path, network: nn.Module, card: Card) -> None:
    """Write `backbone.safetensors`: the state_dict, and the card as JSON; equal weights give equal bytes."""
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as partial:  # one metadata key, since safetensors does not keep the order of several
        save_file(state, partial, metadata={"card": json.dumps(asdict(card), sort_keys=True)})


def load_backbone(path: Path) -> tuple[Backbone, Card]:
    """Read a checkpoint: ours (`.safetensors`), AdaFace's Lightning `.ckpt`, insightface's `.pth` or `.pt`.

    Returns:
        The network in evaluation mode on the CPU, and its card. An official file says nothing of its channel order:
        AdaFace's networks are BGR, insightface's RGB.

    Raises:
        StoreError: no such file, a broken one, one that would run code when read, or not one of `BACKBONES`.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        state, card = _read_safetensors(path)
    else:
        state = _read_torch(path)
        name = _recognise(path, state)
        adaface = name.startswith("ir_")
        card = Card(name, create_on_meta(name).embedding, channels="bgr" if adaface else "rgb")
    network = create_backbone(card.backbone)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise StoreError(f"{path}: not the weights of {card.backbone} ({error})") from error
    return network.eval(), card


def create_on_meta(name: str) -> Backbone:
    """The network without memory for its weights: for its names and shapes."""
    with torch.device("meta"):
        return create_backbone(name)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Card]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path}: not a readable safetensors file ({error})") from error
    known = {field.name for field in fields(Card)}
    try:
        card = Card(**{name: value for name, value in json.loads(metadata["card"]).items() if name in known})
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: its metadata holds no model card; was it written by `r2r train`?") from error
    if card.backbone not in BACKBONES:
        raise StoreError(f"{path}: a {card.backbone!r}, which is none of {', '.join(BACKBONES)}")
    return state, card


def _read_torch(path: Path) -> dict[str, Tensor]:
    state = read_tensors(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        raise StoreError(f"{path}: holds no state_dict")
    network = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    return network or state  # Lightning's holds the network as `model.` beside the head


class _StandIn:
    """In the place of an object that a checkpoint holds beside its tensors: takes anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_tensors(path: Path, device: str = "cpu") -> Any:
    """What a torch checkpoint holds, without running anything in it.

    Lightning before 1.5, which wrote AdaFace's official files, keys a checkpoint's callbacks by their class: its names
    get a stand-in. Any other name stops the reading.

    Raises:
        StoreError: a broken file, or one that would run code when read.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip, or broken: `torch.load` says what
        names = []
    stand_ins: list[Any] = [(_StandIn, name) for name in names if name.startswith("pytorch_lightning.")]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load promises no type
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise StoreError(
                f"{path}: holds more than tensors ({', '.join(names)}), and reading it would run code. Where you trust "
                "it, convert it once: torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW)"
            ) from error
        raise StoreError(f"{path}: not a readable torch checkpoint ({error})") from error


def _recognise(path: Path, state: dict[str, Tensor]) -> str:
    for name in BACKBONES:
        if create_on_meta(name).state_dict().keys() == state.keys():
            return name
    some = ", ".join(sorted(state)[:3])
    raise StoreError(f"{path}: {len(state)} entries ({some}, …) are the weights of none of {', '.join(BACKBONES)}")
