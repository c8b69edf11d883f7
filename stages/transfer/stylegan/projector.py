"""Find the styles of an image by optimisation: the official projector, for many images at once.

NVIDIA's `projector.py` (stylegan2-ada-pytorch) with its schedule, in W; in W+, as rosinality's `projector.py` has it, a
style of its own for each layer. The official code takes one image. Here the losses of several add up, so that each
image's gradient, Adam state and noise are its own, and its result does not depend on the others.

Notation: n images, s pixels of a side, L styles of d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.knobs import check
from stages.transfer.stylegan.networks import Generator

Perceptual = Callable[[Tensor], Tensor]  # [n, 3, h, w] in [0, 255] -> features [n, f], compared by squared distance
LARGEST = 256  # px, of what the perceptual network sees


@dataclass(frozen=True)
class Projection:
    """How an image is projected; the defaults are NVIDIA's."""

    space: str = "w"  # w: one style for all layers | w+: one for each
    steps: int = 1000
    rate: float = 0.1  # learning rate of Adam (0.9, 0.999)
    ramp_up: float = 0.05  # fraction of the steps, linear
    ramp_down: float = 0.25  # fraction of the steps, cosine
    exploration: float = 0.05  # noise on the styles at the first step, in deviations of w
    exploration_until: float = 0.75  # fraction of the steps, falling with the square
    noise_weight: float = 1e5  # of the penalty on noise images that correlate with themselves
    seed: int = 303  # of an image's noise; the same for each, unless the caller has one for each

    def __post_init__(self) -> None:
        check(self.space in ("w", "w+"), f"projection.space {self.space!r}: one of w, w+")
        check(self.steps >= 1, f"projection.steps is {self.steps}: at least 1")
        for name in ("rate", "ramp_up", "ramp_down", "exploration_until"):
            check(getattr(self, name) > 0, f"projection.{name} is {getattr(self, name)}: more than 0")
        for name in ("exploration", "noise_weight"):
            check(getattr(self, name) >= 0, f"projection.{name} is {getattr(self, name)}: at least 0")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0; 0 for the first."""
        t = step / self.steps
        falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / self.ramp_down))
        return self.rate * falling * min(1.0, t / self.ramp_up)

    def exploration_at(self, step: int) -> float:
        """Noise on the styles at a step, in deviations of w."""
        return self.exploration * max(0.0, 1 - step / self.steps / self.exploration_until) ** 2


@torch.no_grad()
def style_statistics(generator: Generator, samples: int = 10_000, seed: int = 123) -> tuple[Tensor, float]:
    """Mean [d] of w and its deviation, as NVIDIA's projector measures them: the root of the mean squared distance."""
    weight = next(generator.parameters())
    z = torch.from_numpy(np.random.RandomState(seed).randn(samples, generator.dimension))
    w = generator.mapping(z.to(weight))
    mean = w.mean(0)
    return mean, float((w - mean).square().sum().div(samples).sqrt())


def project(
    generator: Generator,
    targets: Tensor,
    perceptual: Perceptual,
    settings: Projection,
    seeds: Sequence[int] | None = None,
    start: Tensor | None = None,
    statistics: tuple[Tensor, float] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Optimise styles and noise until the generator paints the targets.

    Args:
        generator: in evaluation mode.
        targets: [n, 3, s, s] in [-1, 1].
        perceptual: the features by which images are compared; officially NVIDIA's `vgg16.pt` with its LPIPS weights.
        settings: the schedule.
        seeds: n, of the images' noise.
        start: [n, L, d], in W+ only; by default the mean of w.
        statistics: of `style_statistics`, where they are known.

    Returns:
        Styles [n, L, d], and the noise of each layer, [n, 1, side, side].

    Raises:
        ValueError: targets of another size than the generator's, or a start in W.
    """
    if targets.shape[1:] != (3, generator.size, generator.size):
        raise ValueError(f"targets {list(targets.shape)}: [n, 3, {generator.size}, {generator.size}] was expected")
    if start is not None and settings.space != "w+":
        raise ValueError("a projection that starts from styles is one in w+")
    n, device = len(targets), targets.device
    draws = [torch.Generator().manual_seed(seed) for seed in ([settings.seed] * n if seeds is None else seeds)]

    def normal(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(targets)

    mean, deviation = statistics or style_statistics(generator)
    layers = generator.styles if settings.space == "w+" else 1
    styles = mean.expand(n, layers, -1) if start is None else start
    styles = styles.detach().clone().requires_grad_()
    noise = [normal(*fixed.shape[1:]).requires_grad_() for fixed in generator.noise()]
    optimiser = torch.optim.Adam([styles, *noise], settings.rate, (0.9, 0.999))
    wanted = _features(targets, perceptual).detach()
    with torch.enable_grad():
        for step in range(settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = settings.rate_at(step)
            shaken = styles + normal(*styles.shape[1:]) * deviation * settings.exploration_at(step)
            images = generator.synthesis(shaken.expand(-1, generator.styles, -1), noise)
            distance = (_features(images, perceptual) - wanted).square().sum()
            loss = distance + settings.noise_weight * self_correlation(noise)
            optimiser.zero_grad()
            loss.backward(inputs=[styles, *noise])
            optimiser.step()
            _normalise(noise)
    found = styles.detach().expand(-1, generator.styles, -1).to(device)
    return found, [image.detach() for image in noise]


def self_correlation(noise: Sequence[Tensor]) -> Tensor:
    """How much noise images [n, 1, side, side] correlate with themselves, moved by a pixel, at each size down to 8."""
    total = noise[0].new_zeros(())
    for image in noise:
        while True:
            for axis in (3, 2):
                total = total + (image * image.roll(1, axis)).mean((1, 2, 3)).square().sum()
            if image.shape[2] <= 8:
                break
            image = F.avg_pool2d(image, 2)
    return total


def _features(images: Tensor, perceptual: Perceptual) -> Tensor:
    pixels = (images + 1) * 127.5
    if pixels.shape[2] > LARGEST:
        pixels = F.interpolate(pixels, size=(LARGEST, LARGEST), mode="area")
    return perceptual(pixels)


@torch.no_grad()
def _normalise(noise: Sequence[Tensor]) -> None:
    for image in noise:
        image -= image.mean((1, 2, 3), keepdim=True)
        image *= image.square().mean((1, 2, 3), keepdim=True).rsqrt()
