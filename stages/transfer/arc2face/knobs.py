"""The knobs of method `arc2face`: the generator, and where its identity vectors come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from stages.knobs import Device, Precision, check, knob, knobs
from stages.transfer.identity_mixup import Share, check_ratios
from stages.transfer.method import MethodKnobs

if TYPE_CHECKING:
    from stages.params import Params
    from stages.run.machine import Machine

SD15_UNET, SD15_DECODER = 803e9, 2515e9  # operations of a step and of a decoding at 512 px, by FlopCounterMode

Scheduler = Literal[  # diffusers' that take Stable Diffusion's noise schedule
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]


@knobs("transfer")
class Knobs(MethodKnobs):
    """Arc2Face; the defaults are its official demo's and Digi2Real's."""

    has_gap: ClassVar[bool] = True

    weights: str = knob(
        "stages/transfer/arc2face/generator", "a diffusers folder, or the official `arc2face/` + `encoder/`"
    )
    base: str = knob("", "Stable Diffusion 1.5's folder: VAE, tokenizer and scheduler of the official weights")
    lora: str = knob("", "LCM-LoRA's folder or file, fused into the UNet; with it LCMScheduler, guidance 1")
    # its default is DPM-Solver++ 2M, as the official demo
    scheduler: Scheduler = knob("DPMSolverMultistepScheduler", "a scheduler of diffusers")
    steps: int = knob(25, "of the scheduler", ge=1)
    guidance: float = knob(3.0, "classifier-free guidance scale; 1 is none", ge=1)
    size: int = knob(0, "px; 0 is what the UNet was trained at", ge=0)
    latents_per_id: int = knob(5, 'identity vectors; Digi2Real, "Dataset Generation"', ge=1)
    images_per_latent: int = knob(5, "of which `images_per_id` in all are used (the paper: 20 of 25)", ge=1)
    order: Literal["interleaved", "grouped"] = knob(
        "interleaved", "which 20 of the 25; interleaved uses all vectors alike"
    )
    sources: Literal["random", "first"] = knob("random", "which source images a vector walks to (sampling.py)")
    prototype: Literal["all", "selected"] = knob("all", "whose mean the prototype is (sampling.py)")
    # rows beyond the papers (docs/choices.md)
    sampling: Literal["slerp", "angular"] = knob(
        "slerp", "how an identity's vectors are drawn: on its geodesics, or around its prototype as IDperturb's"
    )
    lowest_cosine: float = knob(0.6, "of angular: of a vector to the prototype; IDperturb's lb", ge=0, le=1)
    negative: Literal["none", "nearest", "median", "farthest", "random"] = knob(
        "none", "which other identity the unconditional branch is given, as NegFaceDiff's; none: the empty prompt"
    )
    identity_mixup: tuple[Share, ...] = knob(
        (), "SynFace's on the sphere: the own vector's share, one of these for each image; empty is off"
    )
    batch_size: int = knob(32, "images; a batch never spans two identities, so that its make-up is fixed", ge=1)
    decode_slice: int = knob(8, "images that the VAE decodes at a time", ge=1)
    precision: Precision = knob("fp32", "of the networks")
    channels_last: bool = knob(False, "memory layout of the convolutions; helps tensor cores")
    compile: bool = knob(False, "torch.compile the UNet and the VAE's decoder: minutes once, worth it for many images")
    device: Device = knob("auto", "auto | cpu | cuda")
    threads: int = knob(1, "of torch on a CPU, per process; results are equal for equal thread counts", ge=1)

    @property
    def side(self) -> int:
        """See `MethodKnobs`."""
        return self.size or (512 if self.base else 96)

    @property
    def gpu_bytes(self) -> int:
        """See `MethodKnobs`; not measured."""
        return int(2.2e9 + 0.25e9 * self.batch_size) if self.base else 0

    def paths(self) -> dict[str, str]:
        """See `MethodKnobs`."""
        return {"weights": self.weights, "base": self.base, "lora": self.lora}

    def seconds(self, root: Path, machine: Machine) -> float:
        """See `MethodKnobs`."""
        step, decoding = generator_flops(root / self.weights)
        flops = step * self.steps * (2 if self.guidance != 1 else 1) + decoding
        return machine.seconds(flops, self.device, self.precision)

    def check(self, params: Params) -> None:
        """See `MethodKnobs`."""
        check_ratios(self.identity_mixup, params.n_ids)
        check(
            self.negative == "none" or self.guidance != 1,
            f"transfer.negative is {self.negative}, but at transfer.guidance = 1 there is no branch to give it to",
        )
        made = self.latents_per_id * self.images_per_latent
        check(
            params.images_per_id <= made,
            f"images_per_id is {params.images_per_id}, but method arc2face makes transfer.latents_per_id = "
            f"{self.latents_per_id} latents of transfer.images_per_latent = {self.images_per_latent} images: at most "
            f"{made}",
        )


def generator_flops(weights: Path) -> tuple[float, float]:
    """Operations of a step and of a decoding; of Stable Diffusion 1.5 unless another generator stands there."""
    unet, vae = weights / "unet/config.json", weights / "vae/config.json"
    if not (unet.is_file() and vae.is_file()):
        return SD15_UNET, SD15_DECODER
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    with torch.device("meta"), torch.no_grad():
        model = UNet2DConditionModel.from_config(json.loads(unet.read_text()))
        latents = torch.empty(1, model.config["in_channels"], *[model.config["sample_size"]] * 2)
        context = torch.empty(1, 77, model.config["cross_attention_dim"])
        decoder = AutoencoderKL.from_config(json.loads(vae.read_text()))
        for call in (lambda: model(latents, torch.tensor(1), context), lambda: decoder.decode(latents)):
            with FlopCounterMode(display=False) as counter:
                call()
            counts.append(counter.get_total_flops())
    return counts[0], counts[1]
