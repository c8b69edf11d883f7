"""The knobs of method `decent`; the defaults are the official ones (`decent_gan_model.py`)."""

from __future__ import annotations

from stages.knobs import knob, knobs
from stages.transfer.unpaired_knobs import UnpairedKnobs


@knobs("transfer")
class Knobs(UnpairedKnobs):
    """DECENT."""

    steps: int = knob(400_000, "of fit; 400 epochs of 1000 images: the rate is constant, then falls linearly", ge=1)
    lr: float = knob(2e-4, "of Adam, betas 0.5 and 0.999", gt=0)
    width: int = knob(64, "channels of the first convolutions, `ngf` and `ndf`", ge=4, multiple_of=2)
    patches: int = knob(256, "of each layer of features, at most", ge=2)
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
