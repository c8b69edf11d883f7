"""What this machine does in a second, for estimates that tell minutes from days."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

from stages.run.executors import cores

EFFICIENCY = 0.5  # of a convolution's rate, which a whole network reaches
CHANNELS, SIDE = 64, 56  # of the convolution that is timed: an IResNet's second stage


@dataclass(frozen=True)
class Work:
    """A stage's work: seconds, about, and what of."""

    seconds: float
    what: str


class Machine:
    """The rates of this machine, measured when they are asked for."""

    cores = property(lambda self: cores())

    def on_gpu(self, device: str) -> bool:
        """Whether a knob's `auto`, `cpu` or `cuda` comes to the GPU."""
        import torch

        return device != "cpu" and torch.cuda.is_available()

    def seconds(self, flops: float, device: str = "auto", precision: str = "fp32") -> float:
        """How long a network's floating-point operations take, about."""
        place = "cuda" if self.on_gpu(device) else "cpu"
        return flops / (EFFICIENCY * convolution_rate(place, "fp32" if precision == "fp32" else "bf16"))


@cache
def convolution_rate(device: str, precision: str) -> float:
    """Operations a second of a 3 x 3 convolution on this machine, measured in about a tenth of a second."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    batch = 256 if device == "cuda" else 8
    images = torch.rand(batch, CHANNELS, SIDE, SIDE, dtype=dtype, device=device)
    images = images.to(memory_format=torch.channels_last)
    weights = torch.rand(CHANNELS, CHANNELS, 3, 3, dtype=dtype, device=device)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(5):
            begin = time.perf_counter()
            made = torch.nn.functional.conv2d(images, weights, padding=1)
            made[0, 0, 0, 0].item()  # waits for the GPU
            best = min(best, time.perf_counter() - begin)
    return 2 * batch * SIDE**2 * CHANNELS**2 * 9 / best
