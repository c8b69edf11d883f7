"""The knobs of method `codeformer`; the defaults are the official script's (`inference_codeformer.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.knobs import knob, knobs
from stages.transfer.pixel_knobs import PixelKnobs

if TYPE_CHECKING:
    from stages.run.machine import Machine

FILE = "codeformer.pth"


@knobs("transfer")
class Knobs(PixelKnobs):
    """CodeFormer."""

    weights: str = knob("data/weights/codeformer", "codeformer.pth, or the folder with it")
    w: float = knob(0.5, "fidelity: 0 trusts the codebook of faces, 1 keeps the rendered image's detail", ge=0, le=1)
    adain: bool = knob(True, "codes take the channel statistics of the rendered image's latents")
    alignment: Literal["aligned", "unaligned"] = knob(
        "aligned", "an image is resized; or its five points are brought to FFHQ's template, and the face pasted back"
    )
    gray_threshold: float = knob(
        10.0,
        "mean variance of the channels' differences up to which an image is gray, and stays so; -1: none is",
        ge=-1,
    )
    size: int = knob(512, "px, of the network's images; the weights decide", ge=8)
    output: int = knob(0, "px, of the images that are made; 0: `size`, or twice the enlarged image if unaligned", ge=0)
    batch_size: int = knob(8, "images at a time on a GPU", ge=1)

    @property
    def side(self) -> int:
        """See `MethodKnobs`."""
        return self.output or self.size * (2 if self.alignment == "unaligned" else 1)

    @property
    def gpu_bytes(self) -> int:
        """See `MethodKnobs`; not measured: the weights, and a dozen maps of 64 channels for each image of a batch."""
        return int(0.4e9) + 12 * 4 * 64 * self.size**2 * self.batch_size

    def paths(self) -> dict[str, str]:
        """See `MethodKnobs`."""
        return {"weights": self.weights}

    def seconds(self, root: Path, machine: Machine) -> float:
        """See `MethodKnobs`; of the sizes that the weights state, once they are there, and else of the official."""
        return machine.seconds(restoration_flops(weights_file(root / self.weights)), self.device)


def weights_file(weights: Path) -> Path:
    """The file that `transfer.weights` means: itself, or the one in the folder that it is."""
    return weights / FILE if weights.is_dir() else weights


def restoration_flops(weights: Path) -> float:
    """Operations of an image."""
    import torch

    from stages.transfer.codeformer.networks import CodeFormer, sizes_in
    from stages.transfer.unpaired import flops

    with torch.device("meta"):
        network = CodeFormer(**(sizes_in(weights) if weights.is_file() else {}))
        return flops(network, torch.empty(1, 3, network.size, network.size), 1.0)
