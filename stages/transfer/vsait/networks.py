"""VSAIT's networks under their official names (`models/` of facebookresearch/vsait, CC-BY-NC 4.0).

A hypervector is what an image looks like at one place: the features of `stages.transfer.vsait.features` in a patch of
16 x 16 pixels, projected at random. The generator translates; the mapping network says by which factors the source's
hypervectors have to be multiplied (in vector symbolic architectures: unbound and bound) to be ones of the target; the
discriminator judges hypervectors.

Notation: n images, h x w pixels, c channels, d dimensions of a hypervector, u x v places (h/16 x w/16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.training.tensors import read_tensors
from stages.transfer.checkpoint import entry, load_strictly
from stages.transfer.unpaired import translate
from stages.transfer.vsait.features import CHANNELS

OFFICIAL = "VSAIT's checkpoints are Lightning's, trained with github.com/facebookresearch/vsait (CC-BY-NC 4.0)"
KERNELS = (16, 8, 4, 2, 1)  # px of a feature map that fall on one hypervector


class ConvBlock(nn.Module):
    """Convolution, instance norm if any, activation; the border is mirrored."""

    def __init__(self, channels: int, width: int, kernel: int, norm: bool, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(width) if norm else nn.Identity()
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, width, h, w]."""
        return self.act(self.norm(self.conv(x)))


class Stack(nn.Module):
    """Modules in a row under the name `net`."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        """One after the other."""
        return self.net(x)


class ResNetBlock(Stack):
    """Two convolutions with a shortcut: [n, c, h, w] -> [n, c, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            ConvBlock(channels, channels, 3, True, nn.ReLU()), ConvBlock(channels, channels, 3, True, nn.Identity())
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus residual."""
        return x + self.net(x)


class GaussianConv2d(nn.Module):
    """A Gaussian blur of sigma 1 that halves an image (3 x 3) or doubles it (4 x 4); outside the border is 0.

    The halved border is darker for it, as in the official network.
    """

    weight: Tensor

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        side = 4 if up else 3
        square = (torch.arange(side) - (side - 1) / 2).square()
        kernel = torch.exp(-(square[:, None] + square) / 2)
        kernel = kernel / kernel.sum() * (4 if up else 1)
        self.register_buffer("weight", kernel.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h/2, w/2] or [n, c, 2h, 2w]."""
        function = F.conv_transpose2d if self.up else F.conv2d
        return function(x, self.weight, stride=2, padding=1, groups=x.shape[1])


class Generator(nn.Module):
    """Images [n, 3, h, w] -> [n, 3, h, w] in [-1, 1], for h and w multiples of 4 (`generators.py`).

    Args:
        width: channels of the first convolution.
        blocks: residual blocks; the larger half lies in the encoder.
    """

    def __init__(self, width: int = 64, blocks: int = 9) -> None:
        super().__init__()
        self.encoder = Stack(
            ConvBlock(3, width, 7, True, nn.ReLU()),
            *(layer for c in (width, 2 * width) for layer in (_plain(c, 2 * c), GaussianConv2d(2 * c, up=False))),
            *(ResNetBlock(4 * width) for _ in range(blocks - blocks // 2)),
        )
        self.decoder = Stack(
            *(ResNetBlock(4 * width) for _ in range(blocks // 2)),
            *(layer for c in (4 * width, 2 * width) for layer in (GaussianConv2d(c, up=True), _plain(c, c // 2))),
            ConvBlock(width, 3, 7, False, nn.Tanh()),
        )
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Translate."""
        return self.decoder(self.encoder(images))


class LSH(nn.Module):
    """A random projection of one feature map; what it is divided by comes from all of them (`LSHCat`)."""

    ssq_weight: Tensor
    _ssq_conv: Tensor
    weight: Tensor

    def __init__(self, channels: int, dimension: int, kernel: int) -> None:
        super().__init__()
        weight = torch.randn(dimension, channels, kernel, kernel)
        self.register_buffer("ssq_weight", weight.square().sum([1, 2, 3]).view(1, -1, 1, 1))
        self.register_buffer("_ssq_conv", torch.ones(1, 1, kernel, kernel))
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n, c, h, w] -> dot products [n, d, u, v] and squared norms of the patches [n, 1, u, v]."""
        stride = self.weight.shape[-1]
        squares = F.conv2d(x.square().sum(1, keepdim=True), self._ssq_conv, stride=stride)
        return F.conv2d(x, self.weight, stride=stride), squares


class LSHCat(nn.ModuleList):
    """Hypervectors: the cosines between what an image's feature maps hold at a place and d fixed random directions.

    The directions are buffers, drawn when the module is built: networks fit only those that they were trained with.

    Args:
        channels: of the feature maps.
        dimension: d.
        kernels: px of each feature map on one place.
    """

    def __init__(self, channels: Sequence[int], dimension: int, kernels: Sequence[int] = KERNELS) -> None:
        super().__init__(LSH(c, dimension, kernel) for c, kernel in zip(channels, kernels, strict=True))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, each half as high and wide as the one before -> [n, d, u, v] in [-1, 1]."""
        lshs: list[Any] = list(self)
        dots, squares = zip(*(lsh(x) for lsh, x in zip(lshs, features, strict=True)), strict=True)
        directions = sum(lsh.ssq_weight for lsh in lshs)
        return sum(dots) / (sum(squares).sqrt() * directions.sqrt() + 1e-5)


class VSAIT(nn.Module):
    """All networks of VSAIT (`iit.py`), but for the features.

    Args:
        width, blocks: of the generator.
        dimension: d.
        hidden: channels of the discriminator.
        channels: of the features.
    """

    def __init__(
        self,
        width: int = 64,
        blocks: int = 9,
        dimension: int = 4096,
        hidden: int = 1024,
        channels: Sequence[int] = CHANNELS,
    ) -> None:
        super().__init__()
        self.g_net = Generator(width, blocks)
        leaky = nn.LeakyReLU(0.2)
        self.d_net = Stack(
            Stack(
                ConvBlock(dimension, hidden, 1, False, leaky),
                ConvBlock(hidden, hidden, 1, False, leaky),
                nn.Conv2d(hidden, 1, 1),
            )
        )
        _initialise(self.d_net)
        self.lsh_feat = LSHCat(channels, dimension)
        last: Any = ConvBlock(dimension, dimension, 1, False, nn.Identity())
        nn.init.zeros_(last.conv.weight)  # at first the same factor for all: the source's vectors are the target's
        nn.init.ones_(last.conv.bias)
        self.g_net_map = nn.Sequential(
            nn.Sequential(ConvBlock(dimension, dimension, 1, False, nn.ReLU()), last), nn.Tanh()
        )


def apply(generator: Generator, images: np.ndarray, batch: int = 16) -> np.ndarray:
    """Translate images [n, h, w, 3] uint8 RGB; on a CPU no image depends on those beside it."""
    return translate(generator, lambda pixels, _: generator(pixels), images, batch)


def load_official(path: Path) -> VSAIT:
    """Read a Lightning checkpoint strictly, of any sizes; the features in it, if any, are left out.

    Returns:
        The networks in evaluation mode on the CPU; `g_net` is the generator.

    Raises:
        StoreError: not such a file; names what is missing or unexpected.
    """
    state = entry(path, read_tensors(path, official=OFFICIAL), "state_dict")
    state = {name: value for name, value in state.items() if not name.startswith("model.feature_extractor.")}
    with torch.device("meta"):  # the random directions would take longer to draw than to read
        network = VSAIT(**_sizes(state))
    network.to_empty(device="cpu")
    load_strictly(nn.ModuleDict({"model": network}), state, path)
    return network.eval()


def save_official(path: Path, network: VSAIT) -> None:
    """Write the networks as `load_official` reads them."""
    torch.save({"state_dict": {f"model.{name}": value.cpu() for name, value in network.state_dict().items()}}, path)


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `VSAIT` that weights fit, as far as they say."""
    first = {
        "width": "g_net.encoder.net.0.conv.weight",
        "dimension": "g_net_map.0.0.conv.weight",
        "hidden": "d_net.net.0.net.0.conv.weight",
    }
    found: dict[str, Any] = {
        size: len(state[f"model.{name}"]) for size, name in first.items() if f"model.{name}" in state
    }
    if blocks := sum(name.startswith("model.g_net.") and name.endswith(".net.0.conv.weight") for name in state):
        found["blocks"] = blocks - 1  # one such name is the first convolution's
    directions = [f"model.lsh_feat.{level}.weight" for level in range(len(KERNELS))]
    if all(name in state and state[name].ndim == 4 for name in directions):
        found["channels"] = tuple(state[name].shape[1] for name in directions)
    return found


def _plain(channels: int, width: int) -> ConvBlock:
    return ConvBlock(channels, width, 3, True, nn.ReLU())


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight, 0.2)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
