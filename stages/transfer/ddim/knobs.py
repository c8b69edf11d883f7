"""The knobs of method `ddim`; the defaults are diffusers' habit, and the prior the one that Ho et al. released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from stages.knobs import Precision, knob, knobs
from stages.transfer.pixel_knobs import PixelKnobs

if TYPE_CHECKING:
    from stages.run.machine import Machine

OFFICIAL_FLOPS = 497e9  # of an evaluation of google/ddpm-ema-celebahq-256, by FlopCounterMode
EVALUATION = 0.008  # s: of a denoiser on a CPU, however small it is; measured


@knobs("transfer")
class Knobs(PixelKnobs):
    """DDIM inversion; nothing is drawn (eta 0)."""

    a_gpu: ClassVar[int] = 1  # decoding and encoding are nothing beside a hundred evaluations

    weights: str = knob(
        "data/weights/ddpm-celebahq", "a diffusers folder: unet/, scheduler/, and vae/ or vqvae/ if in latents"
    )
    steps: int = knob(50, "from image to noise; as many back", ge=1)
    depth: float = knob(1.0, "share of the steps that are gone, there and back; 1 is all the way to noise", gt=0, le=1)
    face: Literal["whole", "ffhq", "arcface"] = knob(
        "whole",
        "how the prior's faces lie: an image is scaled to it; or its face is cut by FFHQ's square and put back; or by "
        "ArcFace's template, and stays so",
    )
    precision: Precision = knob("fp32", "of the networks; the steps are fp32")
    size: int = knob(0, "px, of the images that are made; 0 is the prior's, or with face: ffhq the image's", ge=0)
    batch_size: int = knob(8, "images at a time on a GPU", ge=1)

    @property
    def side(self) -> int:
        """See `MethodKnobs`."""
        return self.size or (112 if self.face == "ffhq" else 256)

    @property
    def gpu_bytes(self) -> int:
        """See `MethodKnobs`; not measured: the official weights, and a dozen maps of 128 channels for each image."""
        return int(0.5e9) + 12 * 4 * 128 * 256**2 * self.batch_size

    def paths(self) -> dict[str, str]:
        """See `MethodKnobs`."""
        return {"weights": self.weights}

    def seconds(self, root: Path, machine: Machine) -> float:
        """See `MethodKnobs`; of the prior that stands there, or else of the official one."""
        from stages.transfer.ddim.inversion import Inversion

        evaluations = 2 * Inversion(self.steps, self.depth).gone
        denoiser, autoencoder = prior_flops(root / self.weights)
        seconds = machine.seconds(evaluations * denoiser + autoencoder, self.device, self.precision)
        return seconds if machine.on_gpu(self.device) else max(seconds, evaluations * EVALUATION)


def prior_flops(folder: Path) -> tuple[float, float]:
    """Operations of an evaluation, and of the autoencoder there and back."""
    if not (folder / "unet/config.json").is_file():
        return OFFICIAL_FLOPS, 0.0
    import torch

    from stages.transfer.ddim.prior import AUTOENCODERS, UNet2DModel
    from stages.transfer.unpaired import flops

    with torch.device("meta"):
        unet = UNet2DModel.from_config(json.loads((folder / "unet/config.json").read_text()))
        side = unet.config["sample_size"]
        denoising = flops(unet, torch.empty(1, unet.config["in_channels"], side, side), torch.tensor(1))
        for name, kind in AUTOENCODERS.items():
            if (config := folder / name / "config.json").is_file():
                autoencoder = kind.from_config(json.loads(config.read_text()))
                side *= 2 ** (len(autoencoder.config["block_out_channels"]) - 1)
                return denoising, flops(autoencoder, torch.empty(1, 3, side, side))
    return denoising, 0.0
