"""The features that images are compared by: LPIPS's, or a substitute where nothing may have seen a photograph."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stages.training.tensors import read_tensors
from stages.transfer.checkpoint import load_strictly
from stages.transfer.vsait.features import RandomFilters

DEPTHS = (2, 2, 3, 3, 3)  # convolutions of VGG-16 between poolings
CHANNELS = (64, 128, 256, 512, 512)
VGG, LPIPS_WEIGHTS = "vgg16-397923af.pth", "vgg.pth"
OFFICIAL = (
    f"{VGG} is torchvision's VGG-16 (download.pytorch.org/models, BSD-3-Clause), {LPIPS_WEIGHTS} LPIPS's "
    "(github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1, BSD-2-Clause)"
)


class LPIPS(nn.Module):
    """Features whose squared distance is LPIPS of VGG-16 (Zhang et al. 2018, version 0.1).

    NVIDIA's `vgg16.pt` gives the same with `return_lpips`; it is a program, which is not run here. The names are
    torchvision's and `lpips`'s.

    Args:
        width: channels of the first layer, 64 officially.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [width * c // CHANNELS[0] for c in CHANNELS]
        layers: list[nn.Module] = []
        self.taps = []
        for level, (before, c, depth) in enumerate(zip((3, *widths), widths, DEPTHS, strict=False)):
            layers += [nn.MaxPool2d(2)] if level else []
            for number in range(depth):
                layers += [nn.Conv2d(c if number else before, c, 3, padding=1), nn.ReLU()]
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        for level, c in enumerate(widths):  # under the official names, lin0.model.1.weight
            self.add_module(
                f"lin{level}", nn.ModuleDict({"model": nn.ModuleDict({"1": nn.Conv2d(c, 1, 1, bias=False)})})
            )
        # lpips's scaling of [-1, 1], which is ImageNet's, in levels
        self.register_buffer("mean", 127.5 + 127.5 * torch.tensor([-0.030, -0.088, -0.188]), persistent=False)
        self.register_buffer("deviation", 127.5 * torch.tensor([0.458, 0.448, 0.450]), persistent=False)
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 255] -> [n, f]."""
        x = (pixels - self.mean.view(-1, 1, 1)) / self.deviation.view(-1, 1, 1)
        found: list[Tensor] = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                weight = self.get_parameter(f"lin{len(found)}.model.1.weight")[0]
                unit = x * (x.square().sum(1, keepdim=True) + 1e-20).rsqrt()
                found.append((unit * (weight / x[0, 0].numel()).sqrt()).flatten(1))
        return torch.cat(found, 1)


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


def load_lpips(folder: Path) -> LPIPS:
    """Read torchvision's VGG-16 and LPIPS's weights of its layers, strictly but for VGG-16's classifier.

    Raises:
        StoreError: one of the two is missing, broken or another network's; names what is missing or unexpected.
    """
    network = LPIPS()
    vgg, lpips = (read_tensors(folder / name, official=OFFICIAL) for name in (VGG, LPIPS_WEIGHTS))
    state = {name: value for name, value in {**vgg, **lpips}.items() if not name.startswith("classifier.")}
    load_strictly(network, state, folder)
    return network.eval()
