"""VSAIT to the stage `fit`: its training with the sizes and weights that the knobs say."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.transfer.checkpoint import file_of
from stages.transfer.vsait.features import CHANNELS, RandomFilters, VGG19Features, load_vgg19
from stages.transfer.vsait.knobs import Knobs
from stages.transfer.vsait.networks import VSAIT
from stages.transfer.vsait.training import VSAITTraining, halving

CODE = (
    "transfer/checkpoint",
    "transfer/unpaired",
    "transfer/vsait/features",
    "transfer/vsait/learner",
    "transfer/vsait/losses",
    "transfer/vsait/networks",
    "transfer/vsait/training",
)


class Learner(VSAITTraining):
    """See `stages.transfer.learner.Learner`.

    Args:
        knobs: the method's.
        device: of torch.

    Raises:
        StoreError: `transfer.vgg` names no weights of VGG-19.
    """

    def __init__(self, knobs: Knobs, device: torch.device) -> None:
        features = features_of(knobs)
        network = VSAIT(knobs.width, knobs.blocks, knobs.dimension, knobs.hidden, features.channels)
        super().__init__(
            network.to(device),
            features.to(device),
            knobs.vsa,
            knobs.lr,
            knobs.discriminator_lr,
            lambda step: halving(step, knobs.halving),
        )


def features_of(knobs: Knobs) -> VGG19Features | RandomFilters:
    """VGG-19 where the knobs name it; else its substitute, with the same taps and ratios of widths."""
    if knobs.vgg:
        return load_vgg19(file_of(Path(knobs.vgg), ".pth"))
    return RandomFilters([knobs.filters * c // CHANNELS[0] for c in CHANNELS])
