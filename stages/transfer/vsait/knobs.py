"""The knobs of method `vsait`; the defaults are the official ones (`configs/vsait.yaml`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stages.knobs import Device, check, knob, knobs
from stages.transfer.method import LEARNED, MethodKnobs

if TYPE_CHECKING:
    from pathlib import Path

    from stages.params import Params
    from stages.run.machine import Machine

PATCH = 16  # px of an image that fall on one hypervector


@knobs("transfer")
class Knobs(MethodKnobs):
    """VSAIT."""

    learns: ClassVar[bool] = True

    weights: str = knob(LEARNED, "what `fit` learned, or a Lightning checkpoint or the folder with it")
    vgg: str = knob("", "torchvision's VGG-19 or the folder with it; without it, random filters that saw no image")
    steps: int = knob(200_000, "of fit", ge=1)
    batch_size: int = knob(1, "images of each domain in a step of fit", ge=1)
    load: int = knob(256, "px, to which fit scales an image", ge=PATCH)
    crop: int = knob(256, "px, to which fit cuts it; a multiple of 16", ge=PATCH, multiple_of=PATCH)
    lr: float = knob(1e-4, "of the generator's and the mapping's Adam, betas 0 and 0.9", gt=0)
    discriminator_lr: float = knob(4e-4, "of the discriminator's", gt=0)
    halving: int = knob(100_000, "steps after which the learning rates halve", ge=1)
    vsa: float = knob(10.0, "weight of the VSA loss", ge=0)
    width: int = knob(64, "channels of the generator's first convolution", ge=1)
    blocks: int = knob(9, "residual blocks of the generator", ge=1)
    dimension: int = knob(4096, "of the hypervectors", ge=2)
    hidden: int = knob(1024, "channels of the discriminator", ge=1)
    filters: int = knob(64, "channels of the first random filters, where there is no VGG-19", ge=1)
    size: int = knob(256, "px, to which an image is scaled before it is translated; 0 is as it comes", ge=0)
    device: Device = knob("auto", "auto | cpu | cuda")
    threads: int = knob(1, "of torch on a CPU, per process of synthesize", ge=1)

    @property
    def side(self) -> int:
        """See `MethodKnobs`."""
        return self.size or 112

    @property
    def gpu_bytes(self) -> int:
        """See `MethodKnobs`; not measured: twelve maps as large as the first convolution's, for sixteen images."""
        return 12 * 16 * 4 * self.width * self.side**2

    def paths(self) -> dict[str, str]:
        """See `MethodKnobs`."""
        return {"weights": self.weights, "vgg": self.vgg}

    def seconds(self, root: Path, machine: Machine) -> float:
        """See `MethodKnobs`; of a generator of these knobs' sizes."""
        import torch

        from stages.transfer.unpaired import flops
        from stages.transfer.vsait.networks import Generator

        with torch.device("meta"):
            operations = flops(Generator(self.width, self.blocks), torch.empty(1, 3, self.side, self.side))
        return machine.seconds(operations, self.device)

    def check(self, params: Params) -> None:
        """See `MethodKnobs`."""
        check(
            self.crop <= self.load,
            f"transfer.crop is {self.crop}, but transfer.load = {self.load} px is all that there is to cut from",
        )
        has = params.fetch.source_images_per_id
        check(
            params.fetch.source != "embedded" or params.images_per_id <= has,
            f"images_per_id is {params.images_per_id}, but method {params.method} translates the source's "
            f"fetch.source_images_per_id = {has} images of an identity",
        )
