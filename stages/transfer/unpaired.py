"""What the translators that learn from unpaired images share: a training's parts, and pixels through a network.

Notation: n images, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from stages.transfer.checkpoint import check_images, in_batches, to_images, to_network

STRIDE = 4  # the generators halve an image twice


class Schedule:
    """Sets learning rates: those that the optimisers were built with, times a factor of the number of steps done."""

    def __init__(self, optimisers: Mapping[str, Optimizer], factor: Callable[[int], float]) -> None:
        self.factor, self.done = factor, 0
        self._highest = [(one, [group["lr"] for group in one.param_groups]) for one in optimisers.values()]

    def advance(self) -> None:
        """Set the rates of the step that begins now."""
        factor = self.factor(self.done)
        for optimiser, highest in self._highest:
            for group, rate in zip(optimiser.param_groups, highest, strict=True):
                group["lr"] = rate * factor
        self.done += 1

    def state_dict(self) -> dict[str, int]:
        """The number of steps done."""
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a saved number."""
        self.done = state["done"]


class Training:
    """Networks and their optimisers; a subclass writes one step. Fits `stages.transfer.learner.Learner`.

    All that a step changes is in `parts`; what it draws comes from the generator that it is given.

    Args:
        networks, optimisers: by name; the networks' names are those of the parts of a checkpoint.
        factor: of the learning rates, by the number of steps done.
    """

    losses: ClassVar[tuple[str, ...]]  # names of what a step returns

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimisers: Mapping[str, Optimizer],
        factor: Callable[[int], float],
    ) -> None:
        self.schedule = Schedule(optimisers, factor)
        self.parts: dict[str, Any] = {
            **networks,
            **{f"optimiser_{name}": optimiser for name, optimiser in optimisers.items()},
            "schedule": self.schedule,
        }

    def step(self, source: Tensor, target: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """One step of the official order of updates.

        Args:
            source, target: [n, 3, h, w] float32 in [-1, 1], unpaired.
            generator: of this step; nothing is drawn from another.

        Returns:
            The losses, () float32 each, detached.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that a step changes, by reference."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, to the same bits."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Gradients pass through the networks, but none are kept for their weights."""
    learned = [weight for network in networks for weight in network.parameters() if weight.requires_grad]
    for weight in learned:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learned:
            weight.requires_grad_(True)


def descend(loss: Tensor, *optimisers: Optimizer) -> None:
    """One step of the optimisers down a loss."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    for optimiser in optimisers:
        optimiser.step()


def detached(**losses: Tensor) -> dict[str, Tensor]:
    """Losses without their graphs."""
    return {name: loss.detach() for name, loss in losses.items()}


def generator_file(weights: Path) -> Path:
    """The file that `transfer.weights` means: itself, or `latest_net_G.pth` of the folder that it is."""
    return weights / "latest_net_G.pth" if weights.is_dir() else weights


def scaled(images: np.ndarray, size: int) -> np.ndarray:
    """Images [n, h, w, 3] uint8 as [n, size, size, 3], by bicubic interpolation as the official loaders; 0: as is."""
    if not size or images.shape[1:3] == (size, size):
        return images
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in images])


def flops(network: nn.Module, *inputs: Any) -> float:
    """Operations of a network on its inputs, both on the meta device."""
    network.requires_grad_(False)  # the counter hangs itself onto what does
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return float(counter.get_total_flops())


def translate(
    network: nn.Module, run: Callable[[Tensor, np.ndarray], Tensor], images: np.ndarray, batch: int
) -> np.ndarray:
    """Map images by a network, `batch` at a time on a GPU and one by one on a CPU, where no other image matters.

    Sides that are no multiple of 4 are mirrored up to one and cut again. Values are rounded, where the official
    scripts cut them off, which makes every image half a level darker.

    Args:
        network: says on which device and in which precision.
        run: maps [n, 3, h, w] in [-1, 1] and the images that it shows to [n, 3, h, w] in [-1, 1].
        images: [n, h, w, 3] uint8 RGB.
        batch: images at a time.

    Returns:
        [n, h, w, 3] uint8 RGB.
    """
    check_images(images)
    h, w = images.shape[1:3]

    def some(shown: np.ndarray, _: slice) -> np.ndarray:
        padded = F.pad(to_network(shown, network), (0, -w % STRIDE, 0, -h % STRIDE), "reflect")
        return to_images(run(padded, shown)[..., :h, :w])

    with torch.inference_mode():
        return in_batches(some, images, batch, next(network.parameters()).device)
