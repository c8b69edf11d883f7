"""The knobs of method `stylegan`; the defaults are the official ones (e4e's scripts, NVIDIA's `projector.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.knobs import check, knob, knobs
from stages.transfer.pixel_knobs import PixelKnobs

if TYPE_CHECKING:
    from stages.params import Params
    from stages.run.machine import Machine

STEP = 0.022  # s: a step of optimisation on a CPU, however small the networks are; measured on a busy core


@knobs("transfer")
class Knobs(PixelKnobs):
    """StyleGAN inversion."""

    weights: str = knob(
        "stages/transfer/stylegan/inverter.pt",
        "pSp's or e4e's file, or for optimisation a generator's, rosinality's .pt or NVIDIA's .pkl; or a .pt's folder",
    )
    perceptual: str = knob(
        "",
        "a folder with torchvision's VGG-16 and LPIPS's weights for it; without it, random filters that saw no image",
    )
    inversion: Literal["psp", "e4e", "optimisation", "hybrid"] = knob(
        "e4e", "where the styles come from; hybrid: from the file's encoder, then `steps` of optimisation"
    )
    points: Literal["none", "arcface", "detected"] = knob(
        "detected", "five points by which FFHQ's square is cut and put back; none: the image is the square"
    )
    space: Literal["w", "w+"] = knob("w", "of optimisation: one style for all layers, or one for each (hybrid)")
    steps: int = knob(1000, "of optimisation", ge=1)
    lr: float = knob(0.1, "of Adam, betas 0.9 and 0.999", gt=0)
    ramp_up: float = knob(0.05, "share of the steps in which the rate rises", gt=0, le=1)
    ramp_down: float = knob(0.25, "share of the steps in which it falls", gt=0, le=1)
    exploration: float = knob(0.05, "noise on the styles at first, in deviations of w", ge=0)
    exploration_until: float = knob(0.75, "share of the steps that have some", gt=0, le=1)
    noise_weight: float = knob(1e5, "of the penalty on noise images that correlate with themselves", ge=0)
    face: int = knob(256, "px, of what is painted, at most the generator's; pSp's `face_pool`", ge=8)
    size: int = knob(0, "px, of the output; 0 is as it comes: the image with its face, without points as painted", ge=0)
    batch_size: int = knob(8, "images at a time on a GPU", ge=1)

    @property
    def optimises(self) -> bool:
        """Whether there are steps to do."""
        return self.inversion in ("optimisation", "hybrid")

    @property
    def side(self) -> int:
        """See `MethodKnobs`."""
        return self.size or (self.face if self.points == "none" else 112)

    @property
    def gpu_bytes(self) -> int:
        """See `MethodKnobs`; not measured: the official networks, and maps of images at 1024 px."""
        return int(1.3e9 + self.batch_size * (3e9 if self.optimises else 0.6e9))

    def paths(self) -> dict[str, str]:
        """See `MethodKnobs`."""
        return {"weights": self.weights, "perceptual": self.perceptual}

    def seconds(self, root: Path, machine: Machine) -> float:
        """See `MethodKnobs`; a step goes forward and back, which takes three times its operations."""
        from stages.transfer.stylegan.costs import operations

        encoding, painting, comparing = operations(root / self.weights, bool(self.perceptual))
        flops = painting + (encoding if self.inversion != "optimisation" else 0)
        steps = self.steps if self.optimises else 0
        seconds = machine.seconds(flops + steps * 3 * (painting + comparing), self.device)
        return seconds if machine.on_gpu(self.device) else max(seconds, steps * STEP)

    def check(self, params: Params) -> None:
        """See `MethodKnobs`."""
        super().check(params)
        check(
            self.inversion != "hybrid" or self.space == "w+",
            "transfer.space is 'w': a hybrid inversion starts from an encoder's styles, which are in w+",
        )
