"""StyleGAN2 in plain torch, under the state_dict names of rosinality/stylegan2-pytorch (`model.py`).

The custom CUDA kernels of the official repositories only make this faster: filtering is a convolution with zeros
inserted, modulation scales the features instead of the weights, which is the same product in another order.

Notation: n images, s pixels of a side, L = 2 log2(s) - 2 styles of d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLUR = (1, 3, 3, 1)


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert zeros, pad, convolve with a filter, drop samples (`op/upfirdn2d.py`).

    Args:
        x: [n, c, h, w].
        kernel: [k, k]; a convolution flips it.
        up, down: factors.
        pad: before and after, in both directions, in samples of the enlarged image; negative crops.

    Returns:
        [n, c, (h up + pad - k) // down + 1, ...].
    """
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.view(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).view(n, c, h * up, w * up)
    x = F.pad(x, (*pad, *pad))
    weight = kernel.flip(0, 1).to(x.dtype).expand(c, 1, *kernel.shape)
    return F.conv2d(x, weight, stride=down, groups=c)


class Resample(nn.Module):
    """`upfirdn2d` with the binomial filter as the buffer `kernel` [4, 4], times the square of `gain`."""

    kernel: Tensor

    def __init__(self, pad: tuple[int, int], up: int = 1, gain: int = 1) -> None:
        super().__init__()
        taps = torch.tensor(BLUR, dtype=torch.float32)
        kernel = taps[:, None] * taps
        self.register_buffer("kernel", kernel / kernel.sum() * gain**2)
        self.pad, self.up = pad, up

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h up + pad - 3, ...]."""
        return upfirdn2d(x, self.kernel, self.up, pad=self.pad)


class EqualLinear(nn.Module):
    """A linear layer whose weights are kept at unit variance and scaled when used (equalised learning rate).

    Args:
        channels, width: in and out.
        bias: initial.
        rate: of learning, relative; scales weight and bias.
        activate: leaky ReLU of gain sqrt(2) at the end.
    """

    def __init__(self, channels: int, width: int, bias: float = 0.0, rate: float = 1.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, channels) / rate)
        self.bias = nn.Parameter(torch.full((width,), float(bias)))
        self.scale, self.rate, self.activate = rate / math.sqrt(channels), rate, activate

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels] -> [n, width]."""
        x = F.linear(x, self.weight * self.scale, self.bias * self.rate)
        return _activate(x) if self.activate else x


class EqualConv2d(nn.Module):
    """A convolution with equalised learning rate."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, channels, kernel, kernel))
        self.scale, self.stride, self.padding = 1 / math.sqrt(channels * kernel**2), stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, width, ...]."""
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class LeakyBias(nn.Module):
    """Bias, then leaky ReLU (0.2) times sqrt(2) (`FusedLeakyReLU`)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> the same."""
        return _activate(x + self.bias.view(-1, 1, 1))


class PixelNorm(nn.Module):
    """Rows [n, d] with mean square 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class ModulatedConv2d(nn.Module):
    """A convolution whose weights a style scales by input channel; demodulated, an output channel keeps unit variance.

    Args:
        channels, width: in and out.
        kernel: its size.
        style: d.
        demodulate: or not.
        up: twice the size, by a transposed convolution and a blur.
    """

    eps = 1e-8

    def __init__(
        self, channels: int, width: int, kernel: int, style: int, demodulate: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, width, channels, kernel, kernel))
        self.scale, self.padding = 1 / math.sqrt(channels * kernel**2), kernel // 2
        self.demodulate, self.up = demodulate, up
        if up:
            self.blur = Resample((1, 1), gain=2)
        self.modulation = EqualLinear(style, channels, bias=1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[n, channels, h, w] and [n, d] -> [n, width, h, w], or of twice the size."""
        weight = self.scale * self.weight[0]
        scales = self.modulation(style)
        out = x * scales[..., None, None]
        if self.up:
            out = self.blur(F.conv_transpose2d(out, weight.transpose(0, 1), stride=2))
        else:
            out = F.conv2d(out, weight, padding=self.padding)
        if self.demodulate:
            norm = (scales.square() @ weight.square().sum((2, 3)).t() + self.eps).rsqrt()
            out = out * norm[..., None, None]
        return out


class Noise(nn.Module):
    """Adds noise [1 or n, 1, h, w] times the learned strength `weight` [1]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """[n, c, h, w] -> the same."""
        return x + self.weight * noise


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and activation."""

    def __init__(self, channels: int, width: int, style: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels, width, 3, style, up=up)
        self.noise = Noise()
        self.activate = LeakyBias(width)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, width, h, w], or of twice the size."""
        return self.activate(self.noise(self.conv(x, style), noise))


class ToRGB(nn.Module):
    """Features to colours, added to the enlarged colours of the size below."""

    def __init__(self, channels: int, style: int, up: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if up:
            self.upsample = Resample((2, 1), up=2, gain=2)
        self.conv = ModulatedConv2d(channels, 3, 1, style, demodulate=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, 3, h, w], without what is below."""
        return self.conv(x, style) + self.bias


class ConstantInput(nn.Module):
    """The learned 4 x 4 features from which all images start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    """StyleGAN2's generator: latents to images.

    Args:
        size: s, px, a power of two of at least 8.
        style: d, of z, w and the mapping.
        mlp: layers of the mapping.
        channel_base: channels of a size are channel_base / size ...
        channel_max: ... and at most this; both officially of config F (rosinality's channel_multiplier 2).
        rate: relative learning rate of the mapping.
        clamp: of all activations and colours, as NVIDIA's networks trained in float16 have it (256); none otherwise.
    """

    def __init__(
        self,
        size: int,
        style: int = 512,
        mlp: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        rate: float = 0.01,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        widths = channels_of(size, channel_base, channel_max)
        self.size, self.dimension, self.clamp = size, style, clamp
        self.style = nn.Sequential(
            PixelNorm(), *(EqualLinear(style, style, rate=rate, activate=True) for _ in range(mlp))
        )
        self.input = ConstantInput(widths[4])
        self.conv1 = StyledConv(widths[4], widths[4], style)
        self.to_rgb1 = ToRGB(widths[4], style, up=False)
        self.convs, self.to_rgbs, self.noises = nn.ModuleList(), nn.ModuleList(), nn.Module()
        self.noises.register_buffer("noise_0", torch.randn(1, 1, 4, 4))
        for side, width in list(widths.items())[1:]:
            for up in (True, False):
                self.convs.append(StyledConv(widths[side // 2] if up else width, width, style, up))
                self.noises.register_buffer(f"noise_{len(self.convs)}", torch.randn(1, 1, side, side))
            self.to_rgbs.append(ToRGB(width, style))
        self.styles = len(self.convs) + 2

    def noise(self) -> list[Tensor]:
        """The fixed noise of each layer, [1, 1, side, side]."""
        return [self.noises.get_buffer(f"noise_{number}") for number in range(len(self.convs) + 1)]

    def mapping(self, z: Tensor) -> Tensor:
        """z [n, d], normal -> w [n, d]."""
        return self.style(z)

    def broadcast(self, w: Tensor) -> Tensor:
        """w [n, d] -> the same style everywhere, [n, L, d]."""
        return w[:, None].expand(-1, self.styles, -1)

    def synthesis(self, styles: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Paint.

        Args:
            styles: [n, L, d].
            noise: of each layer, [1 or n, 1, side, side]; by default the fixed noise.

        Returns:
            [n, 3, s, s], about [-1, 1].
        """
        noise = self.noise() if noise is None else noise
        x = self.input.input.expand(len(styles), -1, -1, -1)
        x = self._clamped(self.conv1(x, styles[:, 0], noise[0]))
        image = self._clamped(self.to_rgb1(x, styles[:, 1]))
        convs: list[Any] = list(self.convs)
        for level, to_rgb in enumerate(self.to_rgbs):
            for number in (2 * level, 2 * level + 1):
                x = self._clamped(convs[number](x, styles[:, number + 1], noise[number + 1]))
            assert isinstance(to_rgb, ToRGB)
            image = to_rgb.upsample(image) + self._clamped(to_rgb(x, styles[:, 2 * level + 3]))
        return image

    def forward(
        self, z: Tensor, truncation: float = 1.0, mean: Tensor | None = None, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """z [n, d] -> images [n, 3, s, s]; with truncation, w moves to the mean [d] by 1 - truncation."""
        w = self.mapping(z)
        if truncation != 1:
            if mean is None:
                raise ValueError("truncation needs the mean of w")
            w = mean + truncation * (w - mean)
        return self.synthesis(self.broadcast(w), noise)

    def _clamped(self, x: Tensor) -> Tensor:
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ConvLayer(nn.Sequential):
    """The discriminator's layer: blur if it halves the size, convolution, bias and activation."""

    def __init__(self, channels: int, width: int, kernel: int, down: bool = False, activate: bool = True) -> None:
        layers: list[nn.Module] = []
        if down:
            margin = len(BLUR) - 2 + kernel - 1
            layers.append(Resample(((margin + 1) // 2, margin // 2)))
        layers.append(EqualConv2d(channels, width, kernel, 2 if down else 1, 0 if down else kernel // 2))
        if activate:
            layers.append(LeakyBias(width))
        super().__init__(*layers)


class ResBlock(nn.Module):
    """[n, channels, h, w] -> [n, width, h/2, w/2]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 3)
        self.conv2 = ConvLayer(channels, width, 3, down=True)
        self.skip = ConvLayer(channels, width, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and shortcut, with the variance of one."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    """StyleGAN2's discriminator: images [n, 3, s, s] -> logits [n, 1].

    It sees how much the images of a group vary: a logit does depend on the batch. The arguments are the generator's.
    """

    group = 4

    def __init__(self, size: int, channel_base: int = 32768, channel_max: int = 512) -> None:
        super().__init__()
        widths = channels_of(size, channel_base, channel_max)
        sides = sorted(widths, reverse=True)
        self.convs = nn.Sequential(
            ConvLayer(3, widths[size], 1), *(ResBlock(widths[side], widths[side // 2]) for side in sides[:-1])
        )
        self.final_conv = ConvLayer(widths[4] + 1, widths[4], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(widths[4] * 16, widths[4], activate=True), EqualLinear(widths[4], 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits; n is at most 4 or a multiple of it."""
        x = self.convs(images)
        n, _, h, w = x.shape
        group = min(n, self.group)
        deviation = (x.unflatten(0, (group, -1)).var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        x = torch.cat([x, deviation.repeat(group).view(n, 1, 1, 1).expand(-1, -1, h, w)], 1)
        return self.final_linear(self.final_conv(x).flatten(1))


def channels_of(size: int, base: int, limit: int) -> dict[int, int]:
    """Channels of the features of each size from 4 px to `size`.

    Raises:
        ValueError: the size is no power of two of at least 8.
    """
    if size < 8 or size & (size - 1):
        raise ValueError(f"{size} px: a power of two of at least 8 was expected")
    return {2**k: min(base // 2**k, limit) for k in range(2, size.bit_length())}


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)
