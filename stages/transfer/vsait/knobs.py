"""The knobs of method `vsait`; the defaults are the official ones (`configs/vsait.yaml`)."""

from __future__ import annotations

from stages.knobs import knob, knobs
from stages.transfer.unpaired_knobs import UnpairedKnobs

PATCH = 16  # px of an image that fall on one hypervector


@knobs("transfer")
class Knobs(UnpairedKnobs):
    """VSAIT."""

    vgg: str = knob("", "torchvision's VGG-19 or the folder with it; without it, random filters that saw no image")
    steps: int = knob(200_000, "of fit", ge=1)
    load: int = knob(256, "px, to which fit scales an image", ge=PATCH)
    crop: int = knob(256, "px, to which fit cuts it; a multiple of 16", ge=PATCH, multiple_of=PATCH)
    lr: float = knob(1e-4, "of the generator's and the mapping's Adam, betas 0 and 0.9", gt=0)
    discriminator_lr: float = knob(4e-4, "of the discriminator's", gt=0)
    halving: int = knob(100_000, "steps after which the learning rates halve", ge=1)
    vsa: float = knob(10.0, "weight of the VSA loss", ge=0)
    dimension: int = knob(4096, "of the hypervectors", ge=2)
    hidden: int = knob(1024, "channels of the discriminator", ge=1)
    filters: int = knob(64, "channels of the first random filters, where there is no VGG-19", ge=1)

    def paths(self) -> dict[str, str]:
        """See `MethodKnobs`."""
        return {"weights": self.weights, "vgg": self.vgg}

    @property
    def flops(self) -> float:
        """See `PixelKnobs`."""
        import torch

        from stages.transfer.unpaired import flops
        from stages.transfer.vsait.networks import Generator

        with torch.device("meta"):
            return flops(Generator(self.width, self.blocks), torch.empty(1, 3, self.side, self.side))
