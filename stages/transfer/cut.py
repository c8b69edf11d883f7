"""What DECENT and UNSB have from CUT (Park et al. 2020): networks, initialisation, LSGAN, patches of features.

The modules bear the official state_dict names (`models/networks.py` of contrastive-unpaired-translation), so that
official weights load strictly.

Notation: n images, h x w pixels, c channels, p patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.store import StoreError
from stages.training.tensors import read_tensors
from stages.transfer.checkpoint import load_strictly

LEARNING_RATE, BETAS = 2e-4, (0.5, 0.999)  # of Adam, for all networks but density estimators
PATCHES = 256  # of each layer


class Downsample(nn.Module):
    """Blurred by [1, 2, 1], mirrored at the border: [n, c, h, w] -> [n, c, h/2, w/2]."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", _binomial([1, 2, 1]).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Blur, and take every second pixel."""
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.filt, stride=2, groups=x.shape[1])


class Upsample(nn.Module):
    """Interpolated by [1, 3, 3, 1], repeated at the border: [n, c, h, w] -> [n, c, 2h, 2w]."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", 4 * _binomial([1, 3, 3, 1]).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Spread by the transposed blur."""
        x = F.pad(x, (1, 1, 1, 1), "replicate")
        return F.conv_transpose2d(x, self.filt, stride=2, padding=3, groups=x.shape[1])


class ResnetBlock(nn.Module):
    """Two convolutions on a mirrored border, with a shortcut: [n, c, h, w] -> [n, c, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus residual."""
        return x + self.conv_block(x)


def encoder(width: int) -> list[nn.Module]:
    """The generators' first 12 layers: [n, 3, h, w] -> [n, 4 width, h/4, w/4]."""
    return [
        nn.ReflectionPad2d(3),
        nn.Conv2d(3, width, 7),
        nn.InstanceNorm2d(width),
        nn.ReLU(True),
        *(layer for c in (width, 2 * width) for layer in (*_conv(c, 2 * c), Downsample(2 * c))),
    ]


def decoder(width: int) -> list[nn.Module]:
    """The generators' last 11 layers: [n, 4 width, h/4, w/4] -> [n, 3, h, w] in [-1, 1]."""
    return [
        *(layer for c in (4 * width, 2 * width) for layer in (Upsample(c), *_conv(c, c // 2))),
        nn.ReflectionPad2d(3),
        nn.Conv2d(width, 3, 7),
        nn.Tanh(),
    ]


class ResnetGenerator(nn.Module):
    """CUT's `resnet_9blocks`: images [n, 3, h, w] -> [n, 3, h, w] in [-1, 1], for h and w multiples of 4.

    Args:
        width: channels of the first convolution, `ngf`.
        blocks: residual blocks.
    """

    def __init__(self, width: int = 64, blocks: int = 9) -> None:
        super().__init__()
        self.taps = taps(blocks)
        residual = [ResnetBlock(4 * width) for _ in range(blocks)]
        self.model = nn.Sequential(*encoder(width), *residual, *decoder(width))
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Translate."""
        return self.model(images)

    def tapped(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The translated images, and what leaves the layers `taps` on the way."""
        features = self._through(images, self.taps[-1] + 1)
        return self.model[self.taps[-1] + 1 :](features[-1]), features

    def encode(self, images: Tensor) -> list[Tensor]:
        """What leaves the layers `taps`."""
        return self._through(images, self.taps[-1] + 1)

    def _through(self, x: Tensor, layers: int) -> list[Tensor]:
        features = []
        for number, layer in enumerate(self.model[:layers]):
            x = layer(x)
            if number in self.taps:
                features.append(x)
        return features


class Discriminator(nn.Module):
    """CUT's `basic` PatchGAN: images [n, 3, h, w] -> [n, 1, h/8 - 2, w/8 - 2] and the like, a number per 70 px patch.

    Args:
        width: channels of the first convolution, `ndf`.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, width, 4, padding=1),
            nn.LeakyReLU(0.2, True),
            Downsample(width),
            *(layer for c in (width, 2 * width) for layer in (*_leaky(c, 2 * c), Downsample(2 * c))),
            *_leaky(4 * width, 8 * width),
            nn.Conv2d(8 * width, 1, 4, padding=1),
        )
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """How real each patch looks, about 1 for real ones and 0 for others."""
        return self.model(images)


def taps(blocks: int) -> tuple[int, ...]:
    """The layers that features are taken from: 0, 4, 8, 12 and 16; with fewer than 5 blocks, the last block for 16.

    Raises:
        ValueError: fewer than 2 blocks.
    """
    if blocks < 2:
        raise ValueError(f"{blocks} residual blocks: at least 2 were expected")
    return (0, 4, 8, 12, min(16, 11 + blocks))


def initialise(network: nn.Module, gain: float = 0.02) -> None:
    """CUT's `xavier` initialisation, in place: normal weights, and every bias 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def adam(network: nn.Module, lr: float = LEARNING_RATE) -> torch.optim.Adam:
    """CUT's optimiser of a network."""
    return torch.optim.Adam(network.parameters(), lr, BETAS)


def linear_decay(epoch: int, steady: int = 200, falling: int = 200) -> float:
    """CUT's schedule: 1 for the `steady` epochs, then linearly to 1 / (falling + 1) in the last; epochs from 0."""
    return 1 - max(0, epoch + 1 - steady) / (falling + 1)


def epochs(steps: int) -> Callable[[int], float]:
    """The factor of the learning rates by the number of steps done, of which `steps` make the 400 official epochs."""
    return lambda done: linear_decay(400 * done // steps)


def lsgan(prediction: Tensor, real: bool) -> Tensor:
    """Mean squared distance of a discriminator's output to 1 for real images, 0 for others (Mao et al. 2017)."""
    return (prediction - float(real)).square().mean()


def discriminator_loss(of_fake: Tensor, of_real: Tensor) -> Tensor:
    """What a discriminator minimises, given its outputs: the mean over made and real images."""
    return (lsgan(of_fake, False) + lsgan(of_real, True)) / 2


def draw_places(features: Sequence[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """At most `count` places of each feature map [n, c, h, w], [p] int64 in row-major order; all images share them."""
    return [
        torch.randperm(x[0, 0].numel(), generator=generator, device=generator.device)[:count].to(x.device)
        for x in features
    ]


def patches(feature: Tensor, places: Tensor) -> Tensor:
    """A feature map [n, c, h, w] at places [p]: [n * p, c], image by image."""
    return feature.flatten(2)[:, :, places].transpose(1, 2).flatten(0, 1)


def read_state(path: Path, official: str = "") -> dict[str, Tensor]:
    """A bare state_dict, as CUT's `save_networks` writes them.

    Args:
        path: the file, `latest_net_G.pth` and the like.
        official: where such a file comes from, for who does not have it.

    Raises:
        StoreError: no such file, a broken one, one that would run code when read, or no state_dict.
    """
    state = read_tensors(path, official=official)
    if not isinstance(state, Mapping):
        raise StoreError(f"{path}: holds no state_dict, but a {type(state).__name__}")
    if other := next((name for name, value in state.items() if not isinstance(value, Tensor)), None):
        raise StoreError(f"{path}: holds no state_dict of a network: {other} is no tensor")
    return dict(state)


def load_part(path: Path, network: nn.Module, official: str = "") -> None:
    """Read the weights of a network of known sizes (`latest_net_D.pth`, …) strictly, in place.

    Raises:
        StoreError: as `read_state`, or not that network's weights; names what is missing or unexpected.
    """
    load_strictly(network, read_state(path, official), path)


def load_generator(path: Path, official: str = "") -> ResnetGenerator:
    """Read `latest_net_G.pth` strictly, of any width and number of blocks; in evaluation mode on the CPU.

    Raises:
        StoreError: as `load_part`.
    """
    state = read_state(path, official)
    network = ResnetGenerator(*sizes(state))
    load_strictly(network, state, path)
    return network.eval()


def sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width and number of blocks of a generator's weights; the official ones where they are no such weights."""
    first = state.get("model.1.weight")
    width = len(first) if first is not None and first.ndim else 64
    blocks = sum(name.endswith(".conv_block.1.weight") for name in state)
    return width, blocks if blocks >= 2 else 9


def save_states(folder: Path, networks: Mapping[str, nn.Module]) -> None:
    """Write `latest_net_NAME.pth` of every network, as CUT does."""
    for name, network in networks.items():
        state = {key: value.cpu() for key, value in network.state_dict().items()}
        torch.save(state, folder / f"latest_net_{name}.pth")


def _binomial(row: Sequence[float]) -> Tensor:
    kernel = torch.outer(torch.tensor(row), torch.tensor(row)).float()
    return kernel / kernel.sum()


def _conv(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1), nn.InstanceNorm2d(width), nn.ReLU(True)]


def _leaky(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 4, padding=1), nn.InstanceNorm2d(width), nn.LeakyReLU(0.2, True)]
