"""The knobs of method `decent`; the defaults are the official ones (`decent_gan_model.py`)."""

from __future__ import annotations

from stages.knobs import knob, knobs
from stages.transfer.unpaired_knobs import CUTKnobs


@knobs("transfer")
class Knobs(CUTKnobs):
    """DECENT."""

    gan: float = knob(1.0, "weight of the adversarial loss", ge=0)
    identity: float = knob(10.0, "weight of the distance between target images and their translations", ge=0)
    variance: float = knob(0.01, "weight of the variance of the change in density", ge=0)
    hidden: int = knob(10, "of the density estimators: units for each feature", ge=1)
    density_lr: float = knob(1e-3, "of the density estimators' Adam", gt=0)
    polyak: float = knob(0.998, "of their weights' average, which begins at 0: 1 / (1 - polyak) steps", ge=0, lt=1)

    @property
    def flops(self) -> float:
        """See `PixelKnobs`."""
        import torch

        from stages.transfer.cut import ResnetGenerator
        from stages.transfer.unpaired import flops

        with torch.device("meta"):
            return flops(ResnetGenerator(self.width, self.blocks), torch.empty(1, 3, self.side, self.side))
