"""What an inversion costs, counted on networks without weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

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
        model = Inverter(Generator(1024), None, E4EEncoder().eval())
        perceptual = LPIPS() if lpips else RandomFeatures()
    if weights.is_file():
        model = load_inverter(weights).to("meta")
    generator, encoder = model.generator.requires_grad_(False), model.encoder

    def image(side: int) -> Tensor:
        return torch.empty(1, 3, side, side, device="meta")

    return (
        flops(encoder, image(encoder.size)) if encoder is not None else 0.0,
        flops(generator, torch.empty(1, generator.dimension, device="meta")),
        flops(perceptual, image(min(generator.size, LARGEST))),
    )
