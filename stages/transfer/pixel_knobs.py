"""The knobs that image-to-image methods share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stages.knobs import Device, check, knob, knobs
from stages.transfer.method import MethodKnobs

if TYPE_CHECKING:
    from pathlib import Path

    from stages.params import Params
    from stages.run.machine import Machine


@knobs("transfer")
class PixelKnobs(MethodKnobs):
    """Where and how large images are translated."""

    a_gpu: ClassVar[int] = 3  # so that others decode and encode while one computes

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
        """See `MethodKnobs`."""
        return machine.seconds(self.flops, self.device)

    def check(self, params: Params) -> None:
        """See `MethodKnobs`."""
        has = params.fetch.source_images_per_id
        check(
            params.fetch.source != "embedded" or params.images_per_id <= has,
            f"images_per_id is {params.images_per_id}, but method {params.method} translates the source's "
            f"fetch.source_images_per_id = {has} images of an identity",
        )
