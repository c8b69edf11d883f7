"""The knobs of method `unsb`; the defaults are the official ones (`sb_model.py`, README)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.knobs import check, knob, knobs
from stages.transfer.unpaired_knobs import CUTKnobs

if TYPE_CHECKING:
    from stages.params import Params


@knobs("transfer")
class Knobs(CUTKnobs):
    """UNSB."""

    nfe: int = knob(5, "evaluations of the generator for an image; the paper's UNSB-NE-1 and -5", ge=1)
    corrected: bool = knob(False, "a residual block that sees the step; official weights need the faulty one")
    timesteps: int = knob(5, "of the bridge", ge=1)
    tau: float = knob(0.01, "noise of the bridge", ge=0)
    gan: float = knob(1.0, "weight of the adversarial loss", ge=0)
    sb: float = knob(1.0, "weight of the bridge's loss; the README's, the code's own default is 0.1", ge=0)
    nce: float = knob(1.0, "weight of the contrast of patches, of the source and of the target", ge=0)

    @property
    def flops(self) -> float:
        """See `PixelKnobs`."""
        import torch

        from stages.transfer.unpaired import flops
        from stages.transfer.unsb.networks import Generator

        with torch.device("meta"):
            generator = Generator(self.width, self.blocks, self.corrected)
            inputs = torch.empty(1, 3, self.side, self.side), torch.zeros(1), torch.empty(1, generator.noise)
            return self.nfe * flops(generator, *inputs)

    def check(self, params: Params) -> None:
        """See `MethodKnobs`."""
        super().check(params)
        check(
            self.nfe <= self.timesteps,
            f"transfer.nfe is {self.nfe}, but the bridge has transfer.timesteps = {self.timesteps}",
        )
