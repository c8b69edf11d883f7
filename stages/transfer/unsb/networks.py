"""UNSB's networks under their official names (`models/ncsn_networks.py`, `models/networks.py` of cyclomon/UNSB).

Notation: n images, h x w pixels, c channels, t numbers of steps, z noise that chooses among translations, p patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.transfer.checkpoint import load_strictly
from stages.transfer.cut import Downsample, decoder, encoder, initialise, patches, read_state, sizes, taps

OFFICIAL = "UNSB's latest_net_G.pth comes from github.com/cyclomon/UNSB"


class PixelNorm(nn.Module):
    """Rows [n, c] scaled to a mean square of 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the root mean square."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class AdaptiveLayer(nn.Module):
    """Scale and shift of each channel, from the noise."""

    def __init__(self, channels: int, noise: int) -> None:
        super().__init__()
        self.style_net = nn.Linear(noise, 2 * channels)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """[n, c, h, w], [n, noise] -> [n, c, h, w]."""
        scale, shift = self.style_net(z)[..., None, None].chunk(2, 1)
        return scale * x + shift


class ResnetBlock(nn.Module):
    """A residual block on a mirrored border that should see the step and the noise, and officially sees the noise only.

    The official code applies each layer of `conv_block` to the block's input instead of to the output of the layer
    before, so that the last, the norm, is all that counts. Official weights need it so: their first convolution and
    their time embedding have never been trained. `style` is used by neither variant.

    Args:
        channels: c, also of the embedded step and of the noise.
        corrected: run the first convolution, and add the step behind its norm (in front of it, where the official line
            stands, the norm would take it out again).
    """

    def __init__(self, channels: int, corrected: bool) -> None:
        super().__init__()
        self.corrected = corrected
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)
        )
        self.conv_fin = nn.Sequential(
            nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)
        )
        self.adaptive = AdaptiveLayer(channels, channels)
        self.Dense_time = nn.Linear(channels, channels)
        self.style = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor, time: Tensor, z: Tensor) -> Tensor:
        """[n, c, h, w], [n, c], [n, c] -> [n, c, h, w]."""
        if self.corrected:
            hidden = self.conv_block(x) + self.Dense_time(time)[..., None, None]
        else:
            hidden = self.conv_block[-1](x)
        return x + self.conv_fin(self.adaptive(hidden, z))


class Generator(nn.Module):
    """UNSB's `resnet_9blocks_cond`: an image on the way [n, 3, h, w] -> where it leads [n, 3, h, w] in [-1, 1].

    Args:
        width: channels of the first convolution, `ngf`; the noise has 4 times as many.
        blocks: residual blocks.
        corrected: see `ResnetBlock`; for weights trained so, not for the official ones.
    """

    def __init__(self, width: int = 64, blocks: int = 9, corrected: bool = False) -> None:
        super().__init__()
        self.width, self.noise, self.taps = width, 4 * width, taps(blocks)
        self.model_res = nn.ModuleList(ResnetBlock(4 * width, corrected) for _ in range(blocks))
        self.model = nn.Sequential(*encoder(width))
        self.model_upsample = nn.Sequential(*decoder(width))
        self.z_transform = nn.Sequential(PixelNorm(), *_linear(4 * width, 4))
        self.time_embed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.LeakyReLU(0.2), nn.Linear(4 * width, 4 * width), nn.LeakyReLU(0.2)
        )
        initialise(self)

    def forward(self, images: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Images [n, 3, h, w] after t [n] int64 steps, noise z [n, 4 width]."""
        x, time, z = self.model(images), self._embed(t), self.z_transform(z)
        for block in self.model_res:
            x = block(x, time, z)
        return self.model_upsample(x)

    def encode(self, images: Tensor, t: Tensor, z: Tensor) -> list[Tensor]:
        """What leaves the layers `taps`, counted through `model` and `model_res`."""
        x, time, z = images, self._embed(t), self.z_transform(z)
        features = []
        for number, layer in enumerate([*self.model, *self.model_res]):
            x = layer(x) if number < len(self.model) else layer(x, time, z)
            if number in self.taps:
                features.append(x)
            if number == self.taps[-1]:
                break
        return features

    def _embed(self, t: Tensor) -> Tensor:
        return self.time_embed(sinusoids(t, self.width).to(next(self.parameters())))


class ConvBlock(nn.Module):
    """Convolution, embedded step, norm if any, leaky ReLU, and the image halved if asked for."""

    def __init__(self, channels: int, width: int, time: int, norm: bool, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.conv1 = nn.Conv2d(channels, width, 4, padding=1)
        self.norm = nn.InstanceNorm2d(width) if norm else nn.Identity()
        self.act = nn.LeakyReLU(0.2)
        self.down = Downsample(width)
        self.dense = nn.Linear(time, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[n, c, h, w], [n, time] -> [n, width, h', w']."""
        x = self.act(self.norm(self.conv1(x) + self.dense(time)[..., None, None]))
        return self.down(x) if self.halve else x


class TimestepEmbedding(nn.Module):
    """Numbers of steps [n] -> [n, size]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.main = nn.Sequential(*_linear(size, 2))

    def forward(self, t: Tensor) -> Tensor:
        """Embed."""
        return self.main(sinusoids(t, self.size).to(next(self.parameters())))


class Discriminator(nn.Module):
    """UNSB's `basic_cond` PatchGAN, which knows the step; also the energy network, of two pairs of images.

    Args:
        width: channels of the first convolution, `ndf`.
        channels: 3; of the energy network, 12.
    """

    def __init__(self, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        time = 4 * width
        self.model_main = nn.ModuleList(
            [
                ConvBlock(channels, width, time, norm=False, halve=True),
                ConvBlock(width, 2 * width, time, norm=True, halve=True),
                ConvBlock(2 * width, 4 * width, time, norm=True, halve=True),
                ConvBlock(4 * width, 8 * width, time, norm=True, halve=False),
            ]
        )
        self.final_conv = nn.Conv2d(8 * width, 1, 4, padding=1)
        self.t_embed = TimestepEmbedding(time)
        initialise(self)

    def forward(self, x: Tensor, t: Tensor, other: Tensor | None = None) -> Tensor:
        """[n, c, h, w] after t [n] steps, beside another such tensor if any -> [n, 1, h/8 - 2, w/8 - 2]."""
        x = x if other is None else torch.cat([x, other], 1)
        time = self.t_embed(t)
        for block in self.model_main:
            x = block(x, time)
        return self.final_conv(x)


class PatchProjector(nn.Module):
    """CUT's `PatchSampleF`: patches of every layer to unit vectors, by a small network for each layer.

    Args:
        channels: of the layers.
        size: of the vectors.
    """

    def __init__(self, channels: Sequence[int], size: int = 256) -> None:
        super().__init__()
        for layer, c in enumerate(channels):
            self.add_module(f"mlp_{layer}", nn.Sequential(nn.Linear(c, size), nn.ReLU(), nn.Linear(size, size)))
        initialise(self)

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps [n, c, h, w] at places [p] -> [n, p, size] of every layer."""
        projected = []
        for layer, (x, some) in enumerate(zip(features, places, strict=True)):
            vectors = self.get_submodule(f"mlp_{layer}")(patches(x, some))
            vectors = vectors / (vectors.norm(dim=1, keepdim=True) + 1e-7)
            projected.append(vectors.view(len(x), len(some), -1))
        return projected


def sinusoids(t: Tensor, size: int) -> Tensor:
    """Numbers of steps [n] -> their sines and cosines [n, size], size even, of wavelengths from 2 pi to 20,000 pi."""
    half = size // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10_000) / (half - 1)))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def channels(generator: Generator) -> list[int]:
    """Of the layers that a generator's features are taken from; officially 3, 128, 256, 256, 256."""
    return [3, 2 * generator.width, *(4 * generator.width for _ in generator.taps[2:])]


def load_official(path: Path, corrected: bool = False) -> Generator:
    """Read `latest_net_G.pth` strictly, of any sizes; in evaluation mode on the CPU.

    The other networks' files are read by `stages.transfer.cut.load_part`.

    Args:
        path: the file.
        corrected: whether the weights were trained so; the official ones were not, and the file does not say.

    Raises:
        StoreError: not such a file; names what is missing or unexpected.
    """
    state = read_state(path, OFFICIAL)
    network = Generator(*sizes(state), corrected=corrected)
    load_strictly(network, state, path)
    return network.eval()


def _linear(size: int, layers: int) -> list[nn.Module]:
    return [module for _ in range(layers) for module in (nn.Linear(size, size), nn.LeakyReLU(0.2))]
