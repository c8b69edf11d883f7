"""The knobs that translators in CUT's line share; the defaults are the official ones (`options/*_options.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stages.knobs import Device, check, knob, knobs
from stages.transfer.method import LEARNED, MethodKnobs

if TYPE_CHECKING:
    from stages.params import Params
    from stages.run.machine import Machine

SMALLEST = 32  # px: the discriminators halve an image three times


@knobs("transfer")
class UnpairedKnobs(MethodKnobs):
    """Sizes of the networks, and how they learn."""

    learns: ClassVar[bool] = True

    weights: str = knob(LEARNED, "what `fit` learned, an official checkpoint's folder, or its latest_net_G.pth")
    steps: int = knob(400_000, "of fit; 400 epochs of 1000 images: the rate is constant, then falls linearly", ge=1)
    batch_size: int = knob(1, "images of each domain in a step of fit", ge=1)
    load: int = knob(286, "px, to which fit scales an image", ge=SMALLEST)
    crop: int = knob(256, "px, to which fit cuts it; a multiple of 4", ge=SMALLEST, multiple_of=4)
    lr: float = knob(2e-4, "of Adam, betas 0.5 and 0.999", gt=0)
    width: int = knob(64, "channels of the first convolutions, `ngf` and `ndf`", ge=4, multiple_of=2)
    blocks: int = knob(9, "residual blocks of the generator", ge=2)
    patches: int = knob(256, "of each layer of features, at most", ge=2)
    size: int = knob(256, "px, to which an image is scaled before it is translated; 0 is as it comes", ge=0)
    device: Device = knob("auto", "auto | cpu | cuda")
    threads: int = knob(1, "of torch on a CPU, per process of synthesize", ge=1)

    @property
    def side(self) -> int:
        """See `MethodKnobs`."""
        return self.size or 112

    @property
    def flops(self) -> float:
        """Operations of an image."""
        raise NotImplementedError

    def seconds(self, root: Path, machine: Machine) -> float:
        """See `MethodKnobs`; of a generator of these knobs' sizes."""
        return machine.seconds(self.flops, self.device)

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
