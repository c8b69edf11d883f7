"""What the projector compares images by, where no network that has seen photographs may be used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.transfer.vsait.features import RandomFilters


class RandomFeatures(nn.Module):
    """A substitute for LPIPS: the maps of fixed random filters, whose squared distance is a sum of mean squares.

    Args:
        channels: of the maps, each of half the size of the one before.
        seed: of the filters.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 64), seed: int = 0) -> None:
        super().__init__()
        self.filters = RandomFilters(channels, seed)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 255] -> [n, f]."""
        maps = self.filters(pixels / 127.5 - 1)
        return torch.cat([level.flatten(1) / level[0].numel() ** 0.5 for level in maps], 1)
