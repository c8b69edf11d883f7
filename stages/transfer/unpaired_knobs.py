"""The knobs that the translators that learn from unpaired images share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stages.knobs import check, knob, knobs
from stages.transfer.method import LEARNED
from stages.transfer.pixel_knobs import PixelKnobs

if TYPE_CHECKING:
    from stages.params import Params

SMALLEST = 32  # px: the discriminators halve an image three times


@knobs("transfer")
class UnpairedKnobs(PixelKnobs):
    """How they learn, and how large their generators are."""

    learns: ClassVar[bool] = True

    weights: str = knob(LEARNED, "what `fit` learned, an official checkpoint's folder, or the generator's file in it")
    steps: int = knob(200_000, "of fit", ge=1)
    batch_size: int = knob(1, "images of each domain in a step of fit", ge=1)
    load: int = knob(286, "px, to which fit scales an image", ge=SMALLEST)
    crop: int = knob(256, "px, to which fit cuts it; a multiple of 4", ge=SMALLEST, multiple_of=4)
    lr: float = knob(2e-4, "learning rate of the generator", gt=0)
    width: int = knob(64, "channels of the generator's first convolution, and of the discriminator's", ge=4)
    blocks: int = knob(9, "residual blocks of the generator", ge=2)

    @property
    def gpu_bytes(self) -> int:
        """See `MethodKnobs`; not measured: twelve maps as large as the first convolution's, for sixteen images."""
        return 12 * 16 * 4 * self.width * self.side**2

    def check(self, params: Params) -> None:
        """See `MethodKnobs`."""
        super().check(params)
        check(
            self.crop <= self.load,
            f"transfer.crop is {self.crop}, but transfer.load = {self.load} px is all that there is to cut from",
        )


@knobs("transfer")
class CUTKnobs(UnpairedKnobs):
    """What translators in CUT's line share; the defaults are the official ones (`options/*_options.py`)."""

    steps: int = knob(400_000, "of fit; 400 epochs of 1000 images: the rate is constant, then falls linearly", ge=1)
    lr: float = knob(2e-4, "of Adam, betas 0.5 and 0.999", gt=0)
    width: int = knob(64, "channels of the first convolutions, `ngf` and `ndf`", ge=4, multiple_of=2)
    patches: int = knob(256, "of each layer of features, at most", ge=2)
