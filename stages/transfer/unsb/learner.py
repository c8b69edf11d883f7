"""UNSB to the stage `fit`: its training with the sizes and weights that the knobs say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stages.transfer.cut import epochs
from stages.transfer.unsb.bridge import Bridge, apply
from stages.transfer.unsb.knobs import Knobs
from stages.transfer.unsb.networks import Discriminator, Generator, PatchProjector, channels
from stages.transfer.unsb.training import UNSBTraining

CODE = (
    "transfer/checkpoint",
    "transfer/cut",
    "transfer/unpaired",
    "transfer/unsb/bridge",
    "transfer/unsb/learner",
    "transfer/unsb/losses",
    "transfer/unsb/networks",
    "transfer/unsb/training",
)


class Kept:
    """The source's images [n, 3, h, w] of the step before, none at first."""

    def __init__(self) -> None:
        self.images: Tensor | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """The images, if any."""
        return {} if self.images is None else {"images": self.images}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self.images = state.get("images")


class Learner(UNSBTraining):
    """See `stages.transfer.learner.Learner`. The official loader's second source image is here the step before's.

    Args:
        knobs: the method's.
        device: of torch.
    """

    def __init__(self, knobs: Knobs, device: torch.device) -> None:
        generator = Generator(knobs.width, knobs.blocks, knobs.corrected)
        super().__init__(
            generator.to(device),
            Discriminator(knobs.width).to(device),
            Discriminator(knobs.width, channels=12).to(device),
            PatchProjector(channels(generator)).to(device),
            Bridge(knobs.timesteps, knobs.tau),
            knobs.gan,
            knobs.sb,
            knobs.nce,
            knobs.patches,
            epochs(knobs.steps),
            knobs.lr,
        )
        self.evaluations = knobs.nfe
        self.kept = self.parts["kept"] = Kept()

    def step(
        self, source: Tensor, target: Tensor, generator: torch.Generator, second: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `UNSBTraining.step`."""
        if second is None and self.kept.images is not None:
            second = self.kept.images.to(source)
        self.kept.images = source
        return super().step(source, target, generator, second)

    def translate(self, images: np.ndarray) -> np.ndarray:
        """Map images [n, h, w, 3] uint8 RGB by the weights as they are."""
        return apply(self.generator, images, self.evaluations, bridge=self.bridge)
