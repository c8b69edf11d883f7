"""DECENT's density estimators under their official names (`models/bnaf.py`, `models/networks.py` of Mid-Push/Decent).

Its generator and discriminator are CUT's. A block neural autoregressive flow (BNAF, De Cao et al. 2019) maps a vector
of k features to k numbers, the i-th of which depends on the first i features and rises with the i-th, so that its
Jacobian is triangular, and the vector's log-density under a normal distribution of the numbers has a closed form.

Notation: n images, p patches, k features; a layer has a inputs and b outputs for each feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.transfer.cut import ResnetGenerator, load_generator, patches
from stages.transfer.unpaired import translate

OFFICIAL = "DECENT's latest_net_G.pth is what github.com/Mid-Push/Decent writes in training"


class MaskedWeight(nn.Module):
    """A linear layer of k x k blocks: positive on the diagonal, free below, 0 above; its rows have learned norms.

    Args:
        features: k.
        inputs, outputs: a and b.
    """

    mask_d: Tensor
    mask_o: Tensor

    def __init__(self, features: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shape = features, inputs, outputs
        rows, columns = features * outputs, features * inputs
        weight = torch.zeros(rows, columns)
        for feature in range(features):
            block = torch.empty(outputs, (feature + 1) * inputs)
            weight[feature * outputs : (feature + 1) * outputs, : block.shape[1]] = nn.init.xavier_uniform_(block)
        self._weight = nn.Parameter(weight)
        self._diag_weight = nn.Parameter((1 - torch.rand(rows, 1)).log())  # of (0, 1]: never minus infinity
        self.bias = nn.Parameter(torch.empty(rows).uniform_(-1 / math.sqrt(rows), 1 / math.sqrt(rows)))
        row, column = torch.arange(rows)[:, None] // outputs, torch.arange(columns) // inputs
        self.register_buffer("mask_d", (row == column).float())
        self.register_buffer("mask_o", (row > column).float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n, k * a] -> [n, k * b], and the logarithms of the diagonal blocks [k, b, a]."""
        features, inputs, outputs = self.shape
        weight = self._weight.exp() * self.mask_d + self._weight * self.mask_o
        square = weight.square().sum(1, keepdim=True)
        logarithms = self._diag_weight + self._weight - square.log() / 2
        blocks = logarithms.view(features, outputs, features, inputs).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return F.linear(x, self._diag_weight.exp() * weight / square.sqrt(), self.bias), blocks


class BNAF(nn.Sequential):
    """One flow: k -> k * hidden, tanh, -> k, without a shortcut."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(MaskedWeight(features, 1, hidden), nn.Tanh(), MaskedWeight(features, hidden, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n, k] -> numbers [n, k], and the log-determinant of the Jacobian [n]."""
        widen, squash, narrow = self
        wide, rising = widen(x)
        numbers, falling = narrow(squash(wide))
        slope = -2 * (wide - math.log(2) + F.softplus(-2 * wide))  # the logarithm of tanh's derivative
        paths = rising.squeeze(2) + slope.view(len(x), *rising.shape[:2]) + falling.squeeze(1)
        return numbers, paths.logsumexp(2).sum(1)


class BNAFModel(nn.Module):
    """The log-density of vectors of features (`n_flows` 1, `n_layers` 0).

    Args:
        features: k.
        hidden: b of the wide layer.
    """

    def __init__(self, features: int, hidden: int = 10) -> None:
        super().__init__()
        self.model = nn.Sequential(BNAF(features, hidden))

    def log_probs(self, x: Tensor) -> Tensor:
        """[n, k] -> [n], natural logarithms."""
        numbers, determinant = self.model(x)
        return -(numbers.square() + math.log(2 * math.pi)).sum(1) / 2 + determinant


class PatchDensityEstimator(nn.Module):
    """A flow for every layer of features.

    Args:
        channels: of the layers.
        hidden: of the flows.
    """

    initialized: Tensor

    def __init__(self, channels: Sequence[int], hidden: int = 10) -> None:
        super().__init__()
        self.register_buffer("initialized", torch.tensor(1, dtype=torch.uint8))  # in official files, once trained
        self.layers = len(channels)
        for layer, c in enumerate(channels):
            self.add_module(f"flow_{layer}", BNAFModel(c, hidden))

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps [n, k, h, w] at places [p] -> log-densities [n, p] of every layer."""
        return [
            self.get_submodule(f"flow_{layer}").log_probs(patches(x, some)).view(len(x), len(some))  # type: ignore[operator]
            for layer, (x, some) in enumerate(zip(features, places, strict=True))
        ]


def channels(generator: ResnetGenerator) -> list[int]:
    """Of the layers that a generator's features are taken from; officially 3, 128, 256, 256, 256."""
    width = len(generator.model[1].weight)  # type: ignore[arg-type]
    return [3, 2 * width, *(4 * width for _ in generator.taps[2:])]


def apply(generator: ResnetGenerator, images: np.ndarray, batch: int = 16) -> np.ndarray:
    """Translate images [n, h, w, 3] uint8 RGB; on a CPU no image depends on those beside it."""
    return translate(generator, lambda pixels, _: generator(pixels), images, batch)


def load_official(path: Path) -> ResnetGenerator:
    """Read `latest_net_G.pth` strictly, of any sizes; in evaluation mode on the CPU.

    The other networks' files are read by `stages.transfer.cut.load_part`.

    Raises:
        StoreError: not such a file; names what is missing or unexpected.
    """
    return load_generator(path, OFFICIAL)
