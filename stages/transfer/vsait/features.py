"""What VSAIT's hypervectors are made of: five feature maps of an image, halved from one to the next.

Officially they are VGG-19's, trained on ImageNet; `RandomFilters` stands in where nothing may have seen a photograph.

Notation: n images, h x w pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.store import StoreError
from stages.training.tensors import read_tensors
from stages.transfer.checkpoint import load_strictly

DEPTHS = (2, 2, 4, 4, 2)  # convolutions of VGG-19 between poolings, up to the last tap
CHANNELS = (64, 128, 256, 512, 512)  # of the taps
OFFICIAL = "torchvision's vgg19-dcbb9e9d.pth, trained on ImageNet, is the official choice"
UNUSED = re.compile(r"features\.3[24]\.|classifier\.")  # of torchvision's file: what lies behind the last tap


class VGG19Features(nn.Module):
    """The layers 2, 7, 12, 21 and 30 of torchvision's VGG-19; the names are torchvision's.

    Two things are as in the official code, where they were hardly meant. Images come as they are, in [-1, 1], without
    ImageNet's normalisation. And torchvision's ReLUs overwrite their input, so that what is taken from the first four
    layers has passed the ReLU behind them; behind the last, nothing is run.

    Args:
        width: channels of the first layer, 64 officially.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.channels = tuple(width * c // CHANNELS[0] for c in CHANNELS)
        layers: list[nn.Module] = []
        self.taps = []
        for level, (before, c, depth) in enumerate(zip((3, *self.channels), self.channels, DEPTHS, strict=False)):
            layers += [nn.MaxPool2d(2)] if level else []
            for number in range(depth):
                layers += [nn.Conv2d(c if number else before, c, 3, padding=1), nn.ReLU()]
            self.taps.append(len(layers) - 1 - 2 * (depth - 2))  # the ReLU of the level's second convolution
        layers.pop()
        self.taps[-1] -= 1
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[n, 3, h, w] -> five maps of 64, 128, 256, 512 and 512 channels, [n, 64, h, w] to [n, 512, h/16, w/16]."""
        found, x = [], images
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                found.append(x)
        return found


class RandomFilters(nn.Module):
    """A substitute for VGG-19 that has seen no image: one layer of fixed random 3 x 3 filters for each tap.

    Random convolutions followed by ReLU and max pooling keep much of what is where in an image (colour, edges, their
    arrangement) and know nothing of what it shows. The filters depend on the seed alone; they are scaled to keep the
    features' second moment from level to level (He et al. 2015). Random biases, about as large as an image's features,
    let contrast count: without them it would cancel out of the hypervectors, and a translation might saturate.

    Args:
        channels: of the taps.
        seed: of the filters.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 64, 64), seed: int = 0) -> None:
        super().__init__()
        self.channels = tuple(channels)
        generator = torch.Generator().manual_seed(seed)
        for level, (before, c) in enumerate(zip((3, *channels), channels, strict=False)):
            filters = torch.randn(c, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
            self.register_buffer(f"filters_{level}", filters)
            self.register_buffer(f"biases_{level}", torch.randn(c, generator=generator) / 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[n, 3, h, w] -> five maps, each half as high and wide as the one before; ReLU behind all but the last."""
        found, x = [], images
        for level in range(len(self.channels)):
            filters, biases = self.get_buffer(f"filters_{level}"), self.get_buffer(f"biases_{level}")
            x = F.conv2d(F.max_pool2d(x, 2) if level else x, filters, biases, padding=1)
            x = F.relu(x) if level + 1 < len(self.channels) else x
            found.append(x)
        return found


def load_vgg19(path: Path) -> VGG19Features:
    """Read torchvision's weights of VGG-19; what lies behind the last tap is left out.

    Raises:
        StoreError: not that file; names what is missing or unexpected.
    """
    state = read_tensors(path, official=OFFICIAL)
    if not isinstance(state, Mapping):
        raise StoreError(f"{path}: not the weights of VGG-19, but a {type(state).__name__}")
    network = VGG19Features()
    load_strictly(network, {name: value for name, value in state.items() if not UNUSED.match(name)}, path)
    return network.eval()
