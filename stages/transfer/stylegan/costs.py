"""What an inversion costs, counted on networks without weights."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.transfer.stylegan.encoders import E4EEncoder
from stages.transfer.stylegan.files import Inverter, load_inverter
from stages.transfer.stylegan.networks import Generator
from stages.transfer.stylegan.perceptual import LPIPS, RandomFeatures
from stages.transfer.stylegan.projector import LARGEST
from stages.transfer.unpaired import flops


def operations(weights: Path, lpips: bool) -> tuple[float, float, float]:
    """Operations of encoding, painting and comparing an image.

    Args:
        weights: of the networks that are counted; the official ones, unless a file stands there.
        lpips: compared by LPIPS, else by random filters.
    """
    with torch.device("meta"):
        model = (
            load_inverter(weights).to("meta") if weights.is_file() else Inverter(Generator(1024), None, E4EEncoder())
        )
        perceptual = LPIPS() if lpips else RandomFeatures()
        generator, encoder = model.generator, model.encoder
        seen = min(generator.size, LARGEST)
        return (
            flops(encoder.eval(), torch.empty(1, 3, encoder.size, encoder.size)) if encoder is not None else 0.0,
            flops(generator, torch.empty(1, generator.dimension)),
            flops(perceptual, torch.empty(1, 3, seen, seen)),
        )
