"""The field's networks under their official names, each with the official state_dict, so that official weights load.

| name | whose | source |
|---|---|---|
| `ir_*`, `ir_se_50` | AdaFace's | `net.py` |
| `iresnet*` | insightface's | `recognition/arcface_torch/backbones/iresnet.py` |
| `mbf`, `mbf_large` | insightface's MobileFaceNet (Chen et al. 2018) | the same folder's `mobilefacenet.py` |
| `LResNet50E_IR` | SynFace's, of 112x96 px | `lib/models/resnets.py` |

AdaFace's and insightface's IResNets are not weight-compatible: where a block keeps its width, AdaFace's shortcut is a
pooling and insightface's a convolution, and the last batch norm is plain in one and affine in the other.
`iresnet_tiny` is this project's own, small enough for two CPU cores; `iresnet152` has the usual blocks of that depth,
and no released weights.

Every network maps [n, 3, 112, 112] in [-1, 1] to the raw embedding [n, d]. AdaFace's official network returns the unit
embedding and its norm; here the heads divide, and whoever compares embeddings normalises them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from stages.knobs import ParamsError

SIZE = 112  # px


class IRBlock(nn.Module):
    """AdaFace's residual blocks: [n, c, h, w] -> [n, width, h/stride, w/stride].

    Args:
        channels: c.
        width: of the output.
        stride: of the last convolution.
        bottleneck: three convolutions, the middle one of a quarter of the width, instead of two.
        squeeze: end with squeeze and excitation (Hu et al. 2018).
    """

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool = False, squeeze: bool = False) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if channels == width:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(_conv(channels, width, stride, kernel=1), nn.BatchNorm2d(width))
        inner = width // 4 if bottleneck else width
        middle = [_conv(inner, inner), nn.BatchNorm2d(inner), nn.PReLU(inner)] if bottleneck else []
        kernel = 1 if bottleneck else 3
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            _conv(channels, inner, kernel=kernel),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            *middle,
            _conv(inner, width, stride, kernel),
            nn.BatchNorm2d(width),
        )
        if squeeze:
            self.res_layer.add_module("se_block", SqueezeExcitation(width))

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus residual."""
        return self.shortcut_layer(x) + self.res_layer(x)


class SqueezeExcitation(nn.Module):
    """Weigh the channels of [n, c, h, w] by what a small network makes of their means; reduction 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = _conv(channels, channels // 16, kernel=1), _conv(channels // 16, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Each channel times a weight in (0, 1)."""
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class IR(nn.Module):
    """AdaFace's IResNet (`net.py`, `Backbone`): raw embedding [n, 512].

    Args:
        depths: blocks of each of the four stages.
        bottleneck: blocks of three convolutions, and four times the channels: the deep ones, from 152 layers on.
        squeeze: squeeze and excitation in each block.
    """

    channels: Literal["rgb", "bgr"] = "bgr"  # what official weights see
    columns = SIZE  # px, the middle ones of an aligned image

    def __init__(self, depths: Sequence[int], bottleneck: bool = False, squeeze: bool = False) -> None:
        super().__init__()
        self.embedding = 512
        widths = [width * (4 if bottleneck else 1) for width in (64, 128, 256, 512)]
        self.input_layer = nn.Sequential(_conv(3, 64), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks = []
        for channels, width, depth in zip([64, *widths], widths, depths, strict=False):
            blocks.append(IRBlock(channels, width, 2, bottleneck, squeeze))
            blocks += [IRBlock(width, width, 1, bottleneck, squeeze) for _ in range(depth - 1)]
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(widths[-1] * 7 * 7, 512),
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

    channels: Literal["rgb", "bgr"] = "rgb"
    columns = SIZE

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


class BlockIR(nn.Module):
    """SynFace's residual block, insightface's under other names: [n, c, h, w] -> [n, width, h/stride, w/stride]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = _conv(channels, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu1 = nn.PReLU(width)
        self.conv2 = _conv(width, width, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(_conv(channels, width, stride, kernel=1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus residual."""
        residual = self.prelu1(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(residual)) + self.downsample(x)


class LResNet(nn.Module):
    """SynFace's IResNet (`resnets.py`): raw embedding [n, 512] of the middle 96 columns of an aligned image.

    The two templates differ by 8 px in x, so that the middle of a 112x112 crop is the official 112x96 crop.

    Args:
        depths: blocks of each of the four stages.
    """

    channels: Literal["rgb", "bgr"] = "rgb"
    columns = 96

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        self.embedding = 512
        self.conv1 = _conv(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu1 = nn.PReLU(64)
        for stage, ((channels, width), depth) in enumerate(zip(pairwise((64, 64, 128, 256, 512)), depths, strict=True)):
            rest = [BlockIR(width, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(BlockIR(channels, width, 2), *rest))
        self.fc = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(512 * (SIZE // 16) * (self.columns // 16), 512),
            nn.BatchNorm1d(512),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, 112, 112 or 96] in [-1, 1] -> raw embedding [n, 512]."""
        margin = (images.shape[-1] - self.columns) // 2
        x = self.prelu1(self.bn1(self.conv1(images[..., margin : margin + self.columns])))
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(x)


class ConvBlock(nn.Module):
    """MobileFaceNet's convolution with batch norm, and PReLU unless it is `linear`; padding keeps the size."""

    def __init__(
        self, channels: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        padding = 0 if linear else kernel // 2
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(width)
        )
        if not linear:
            self.layers.append(nn.PReLU(width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, width, h', w']."""
        return self.layers(x)


class DepthWise(nn.Module):
    """MobileFaceNet's inverted bottleneck: widen to `groups`, convolve each, narrow; `residual` adds the input."""

    def __init__(self, channels: int, width: int, groups: int, stride: int = 2, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            ConvBlock(channels, groups),
            ConvBlock(groups, groups, 3, stride, groups),
            ConvBlock(groups, width, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, width, h/stride, w/stride]."""
        return self.layers(x) + x if self.residual else self.layers(x)


class Residual(nn.Module):
    """Several residual bottlenecks of one width."""

    def __init__(self, channels: int, depth: int, groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(DepthWise(channels, channels, groups, 1, residual=True) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w], kept."""
        return self.layers(x)


class GDC(nn.Module):
    """Global depthwise convolution: [n, 512, 7, 7] -> embedding [n, d]."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(512, 512, 7, groups=512, linear=True),
            nn.Flatten(),
            nn.Linear(512, embedding, bias=False),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Raw embedding."""
        return self.layers(x)


class MobileFaceNet(nn.Module):
    """insightface's MobileFaceNet (`mobilefacenet.py`): raw embedding [n, 512].

    Its second convolution is officially in 64 groups, whatever its width, where the paper's is depthwise.

    Args:
        depths: blocks of each of the four stages; a first one of 1 is a plain convolution.
        scale: of the channels.
    """

    channels: Literal["rgb", "bgr"] = "rgb"
    columns = SIZE

    def __init__(self, depths: Sequence[int] = (1, 4, 6, 2), scale: int = 2) -> None:
        super().__init__()
        self.embedding = 512
        narrow, wide = 64 * scale, 128 * scale
        first = ConvBlock(narrow, narrow, 3, groups=64) if depths[0] == 1 else Residual(narrow, depths[0], 128)
        self.layers = nn.ModuleList(
            [
                ConvBlock(3, narrow, 3, 2),
                first,
                DepthWise(narrow, narrow, 128),
                Residual(narrow, depths[1], 128),
                DepthWise(narrow, wide, 256),
                Residual(wide, depths[2], 256),
                DepthWise(wide, wide, 512),
                Residual(wide, depths[3], 256),
            ]
        )
        self.conv_sep = ConvBlock(wide, 512)
        self.features = GDC(512)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, 112, 112] in [-1, 1] -> raw embedding [n, 512]."""
        for layer in self.layers:
            images = layer(images)
        return self.features(self.conv_sep(images))


def _conv(channels: int, width: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)


Backbone = IR | IResNet | LResNet | MobileFaceNet
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "ir_18": lambda: IR((2, 2, 2, 2)),
    "ir_34": lambda: IR((3, 4, 6, 3)),
    "ir_50": lambda: IR((3, 4, 14, 3)),
    "ir_101": lambda: IR((3, 13, 30, 3)),
    "ir_152": lambda: IR((3, 8, 36, 3), bottleneck=True),
    "ir_se_50": lambda: IR((3, 4, 14, 3), squeeze=True),
    "iresnet18": lambda: IResNet((2, 2, 2, 2)),
    "iresnet34": lambda: IResNet((3, 4, 6, 3)),
    "iresnet50": lambda: IResNet((3, 4, 14, 3)),
    "iresnet100": lambda: IResNet((3, 13, 30, 3)),
    "iresnet152": lambda: IResNet((3, 8, 36, 3)),
    "iresnet200": lambda: IResNet((6, 26, 60, 6)),
    "mbf": lambda: MobileFaceNet(),
    "mbf_large": lambda: MobileFaceNet((2, 8, 12, 4), scale=4),
    "LResNet50E_IR": lambda: LResNet((3, 4, 14, 3)),
    "iresnet_tiny": lambda: IResNet((2, 2, 2), widths=(32, 64, 128), stem_stride=2, embedding=256),
}


def create_backbone(name: str) -> Backbone:
    """A new network by name (`BACKBONES`), officially initialised; its `embedding` is d, its `channels` rgb or bgr.

    Raises:
        ParamsError: no such network.
    """
    if name not in BACKBONES:
        raise ParamsError(f"backbone {name!r}: one of {', '.join(BACKBONES)}")
    return BACKBONES[name]()


def create_on_meta(name: str) -> Backbone:
    """The network without memory for its weights: for its names and shapes."""
    with torch.device("meta"):
        return create_backbone(name)


def normalise(images: Tensor, channels: str = "rgb") -> Tensor:
    """What a network sees: [n, h, w, 3] uint8 RGB -> [n, 3, h, w] float32 in [-1, 1], (x / 255 - 0.5) / 0.5."""
    if channels == "bgr":
        images = images.flip(-1)
    return (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
