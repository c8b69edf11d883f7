"""Encoders of StyleGAN inversion, under their official state_dict names: images to styles, in one pass.

pSp (Richardson et al. 2021, eladrich/pixel2style2pixel) predicts each style from a feature pyramid; e4e (Tov et al.
2021, omertov/encoder4editing) one style and each other's difference to it, which stays nearer to what the generator
knows. Both are `models/encoders/psp_encoders.py`, with the same names and shapes: a file's `opts` tell them apart.

Notation: n images, s pixels of a side, L styles of d dimensions, of which the first 3 are coarse and the next 4 middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.transfer.stylegan.networks import EqualLinear

COARSE, MIDDLE = 3, 7  # first style of the middle and of the fine ones


class SqueezeExcite(nn.Module):
    """Channels [n, c, h, w] weighted by what their means say."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weight."""
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class BottleneckIRSE(nn.Module):
    """Residual block of IR-SE50: [n, c, h, w] -> [n, width, h/stride, w/stride]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if channels != width:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, width, 3, 1, 1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            SqueezeExcite(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus residual."""
        return self.res_layer(x) + self.shortcut_layer(x)


class StyleBlock(nn.Module):
    """Features [n, c, side, side] -> one style [n, d], by convolutions that halve the size (`GradualStyleBlock`)."""

    def __init__(self, channels: int, dimension: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(int(math.log2(side))):
            layers += [nn.Conv2d(dimension if number else channels, dimension, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(dimension, dimension)

    def forward(self, x: Tensor) -> Tensor:
        """Style."""
        return self.linear(self.convs(x).flatten(1))


class PyramidEncoder(nn.Module):
    """What pSp and e4e share: IR-SE50, its features at three sizes, and a style block for each style.

    Args:
        styles: L; officially 18, for a generator of 1024 px.
        size: s, px; 256.
        depths: blocks of the four stages.
        widths: channels of the four stages.
        dimension: d; that of the last stage.
    """

    def __init__(
        self,
        styles: int = 18,
        size: int = 256,
        depths: Sequence[int] = (3, 4, 14, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        dimension: int = 512,
    ) -> None:
        super().__init__()
        self.size = size
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        blocks = []
        for (channels, width), depth in zip(pairwise([widths[0], *widths]), depths, strict=True):
            blocks += [BottleneckIRSE(channels, width, 2), *(BottleneckIRSE(width, width, 1) for _ in range(depth - 1))]
        self.body = nn.Sequential(*blocks)
        self.taps = [sum(depths[: stage + 1]) - 1 for stage in (1, 2, 3)]
        sides = [size // 16] * COARSE + [size // 8] * (MIDDLE - COARSE) + [size // 4] * (styles - MIDDLE)
        self.styles = nn.ModuleList(StyleBlock(widths[3], dimension, side) for side in sides[:styles])
        self.latlayer1 = nn.Conv2d(widths[2], widths[3], 1)
        self.latlayer2 = nn.Conv2d(widths[1], widths[3], 1)

    def each(self, images: Tensor) -> Tensor:
        """What the style blocks say: [n, 3, s, s] in [-1, 1] -> [n, L, d]."""
        x = self.input_layer(images)
        features = []
        for number, block in enumerate(self.body):
            x = block(x)
            if number in self.taps:
                features.append(x)
        fine, middle, coarse = features
        middle = _enlarge_and_add(coarse, self.latlayer1(middle))
        fine = _enlarge_and_add(middle, self.latlayer2(fine))
        return torch.stack(
            [
                style(coarse if number < COARSE else middle if number < MIDDLE else fine)
                for number, style in enumerate(self.styles)
            ],
            1,
        )


class PSPEncoder(PyramidEncoder):
    """pSp's `GradualStyleEncoder`: each style for itself."""

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, s, s] in [-1, 1] -> styles [n, L, d], as a rule relative to the mean style."""
        return self.each(images)


class E4EEncoder(PyramidEncoder):
    """e4e's `Encoder4Editing` at its last stage: the first style, and what is added to it for each other."""

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, s, s] in [-1, 1] -> styles [n, L, d], as a rule relative to the mean style."""
        first, others = self.each(images).split([1, len(self.styles) - 1], 1)
        return torch.cat([first, first + others], 1)


def _enlarge_and_add(x: Tensor, y: Tensor) -> Tensor:
    return F.interpolate(x, size=y.shape[2:], mode="bilinear", align_corners=True) + y
