"""The way along UNSB's bridge (`sb_model.py`): an image moves, step by step, towards where the generator sees its end.

Notation: n images, h x w pixels, T steps in training, t a number of steps done, tau the bridge's noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.transfer.unpaired import translate
from stages.transfer.unsb.networks import Generator

Draw = Callable[..., Tensor]  # shape of an image's share -> normal numbers [n, *shape]


@dataclass(frozen=True)
class Bridge:
    """Times and noise of the way.

    Args:
        steps: T.
        tau: the variance of its noise, in units of a Brownian bridge's.
    """

    steps: int = 5
    tau: float = 0.01

    def times(self) -> Tensor:
        """[T + 1] float64: 0, then 1/2 to 1 in steps like 1, 1/2, 1/3, …; for T = 5, 0 0.5 0.74 0.86 0.94 1."""
        gaps = 1 / torch.arange(1, self.steps, dtype=torch.float64)
        way = torch.cat([gaps.new_zeros(1), gaps.cumsum(0)])
        way = way / way[-1] if self.steps > 1 else way + 1
        return torch.cat([gaps.new_zeros(1), 0.5 + way / 2])

    def move(self, x: Tensor, end: Tensor, t: int, noise: Tensor) -> Tensor:
        """Where an image that stands at x after t - 1 steps, and leads to `end`, stands after t; all [n, 3, h, w]."""
        times = self.times().tolist()
        gap = times[t] - times[t - 1]
        part = gap / (times[-1] - times[t - 1])
        return (1 - part) * x + part * end + (gap * (1 - part) * self.tau) ** 0.5 * noise

    def walk(self, generator: Generator, x: Tensor, steps: int, draw: Draw) -> Tensor:
        """Where images [n, 3, h, w] stand after so many steps, less than T."""
        for t in range(steps):
            end = generator(x, number(t, x), draw(generator.noise))
            x = self.move(x, end, t + 1, draw(*x.shape[1:]))
        return x

    def cross(self, generator: Generator, x: Tensor, evaluations: int, draw: Draw) -> Tensor:
        """Where images [n, 3, h, w] lead, seen by so many evaluations of the generator, 1 to T (the paper's NFE)."""
        if not 1 <= evaluations <= self.steps:
            raise ValueError(f"{evaluations} evaluations of the generator: 1 to {self.steps} were expected")
        x = self.walk(generator, x, evaluations - 1, draw)
        return generator(x, number(evaluations - 1, x), draw(generator.noise))


BRIDGE = Bridge()  # the official one


def apply(
    generator: Generator,
    images: np.ndarray,
    evaluations: int = 5,
    seed: int = 0,
    batch: int = 16,
    bridge: Bridge = BRIDGE,
) -> np.ndarray:
    """Translate images [n, h, w, 3] uint8 RGB.

    What an image draws depends on the seed and on its own pixels, so that the same image is always translated the same
    way; on a CPU no image depends on those beside it.

    Args:
        generator: in evaluation mode.
        images: to translate.
        evaluations: of the generator for each image, 1 to 5 (the paper's NFE).
        seed: of the noise.
        batch: images at a time on a GPU.
        bridge: that the generator was trained on.
    """

    def run(pixels: Tensor, shown: np.ndarray) -> Tensor:
        own = [torch.Generator().manual_seed(noise_seed(seed, image)) for image in shown]

        def draw(*shape: int) -> Tensor:
            return torch.stack([torch.randn(shape, generator=one) for one in own]).to(pixels)

        return bridge.cross(generator, pixels, evaluations, draw)

    return translate(generator, run, images, batch)


def number(t: int, images: Tensor) -> Tensor:
    """A number of steps for each of the images: [n] int64."""
    return torch.full((len(images),), t, device=images.device)


def noise_seed(seed: int, image: np.ndarray) -> int:
    """The seed of what an image [h, w, 3] uint8 draws, in [0, 2^63)."""
    digest = hashlib.blake2b(f"{seed} {image.shape} ".encode() + image.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
