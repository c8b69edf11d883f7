"""DECENT to the stage `fit`: its training with the sizes and weights that the knobs say."""

from __future__ import annotations

import torch

from stages.transfer.cut import Discriminator, ResnetGenerator, epochs
from stages.transfer.decent.knobs import Knobs
from stages.transfer.decent.networks import PatchDensityEstimator, channels
from stages.transfer.decent.training import DecentTraining

CODE = (
    "transfer/checkpoint",
    "transfer/cut",
    "transfer/decent/learner",
    "transfer/decent/losses",
    "transfer/decent/networks",
    "transfer/decent/optimiser",
    "transfer/decent/training",
    "transfer/unpaired",
)


class Learner(DecentTraining):
    """See `stages.transfer.learner.Learner`.

    Args:
        knobs: the method's.
        device: of torch.
    """

    def __init__(self, knobs: Knobs, device: torch.device) -> None:
        generator = ResnetGenerator(knobs.width, knobs.blocks)
        of_source, of_target = (PatchDensityEstimator(channels(generator), knobs.hidden) for _ in range(2))
        super().__init__(
            generator.to(device),
            Discriminator(knobs.width).to(device),
            (of_source.to(device), of_target.to(device)),
            knobs.gan,
            knobs.identity,
            knobs.variance,
            knobs.patches,
            epochs(knobs.steps),
            knobs.lr,
            knobs.density_lr,
            knobs.polyak,
        )
