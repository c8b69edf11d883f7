"""An unconditional diffusion model in diffusers' format: a folder with `unet/` and `scheduler/`.

In pixels (`DDPMPipeline`, such as google/ddpm-ema-celebahq-256), or in latents, with a `vqvae/` (`LDMPipeline`) or a
`vae/`.

Notation: n images, s pixels of a side, c x t x t latents; in pixels the latents are the image, c = 3 and t = s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DModel, VQModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
from torch import Tensor

from stages.store import StoreError

AUTOENCODERS: dict[str, Any] = {"vqvae": VQModel, "vae": AutoencoderKL}
OFFICIAL = (
    "`r2r fetch ddpm-celebahq` gets google/ddpm-ema-celebahq-256, under Apache 2.0; it learned the photographs of "
    "CelebA-HQ, which are for research only"
)


@dataclass
class Prior:
    """A denoiser, its noise schedule, and the autoencoder of its latents where it has one."""

    unet: Any  # UNet2DModel
    scheduler: dict[str, Any]  # the configuration of any diffusers scheduler
    autoencoder: Any = None  # VQModel or AutoencoderKL

    @property
    def size(self) -> int:
        """s, px: what the denoiser was trained on."""
        factor = 1 if self.autoencoder is None else 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        return self.unet.config.sample_size * factor

    @property
    def times(self) -> int:
        """T, how many steps it was trained with."""
        return self.schedulers(1)[1].config["num_train_timesteps"]

    def to(self, device: str | torch.device) -> Prior:
        """The same on a device."""
        autoencoder = None if self.autoencoder is None else self.autoencoder.to(device)
        return Prior(self.unet.to(device), self.scheduler, autoencoder)

    def schedulers(self, steps: int) -> tuple[DDIMInverseScheduler, DDIMScheduler]:
        """DDIM towards noise and back, over the same times.

        Clipping is off: it is no part of DDIM's equation, and would not let the way back be the inverse.
        """
        same: dict[str, Any] = {"clip_sample": False}
        if self.scheduler.get("timestep_spacing") != "trailing":
            same["timestep_spacing"] = "leading"
        inverse = DDIMInverseScheduler.from_config(self.scheduler, **same)
        forward = DDIMScheduler.from_config(self.scheduler, thresholding=False, **same)
        inverse.set_timesteps(steps)
        forward.set_timesteps(steps)
        return inverse, forward

    @property
    def _shift(self) -> float:
        return self.autoencoder.config.get("shift_factor") or 0.0  # newer AutoencoderKLs have one

    def encode(self, pixels: Tensor) -> Tensor:
        """[n, 3, s, s] in [-1, 1] -> [n, c, t, t], without drawing."""
        if self.autoencoder is None:
            return pixels
        encoded = self.autoencoder.encode(pixels)
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latents - self._shift) * self.autoencoder.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """[n, c, t, t] -> [n, 3, s, s]."""
        if self.autoencoder is None:
            return latents
        return self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor + self._shift).sample

    def predict(self, latents: Tensor, time: Tensor) -> Tensor:
        """What the denoiser says of [n, c, t, t] at a time; a learned variance beside it is left out."""
        return self.unet(latents, time).sample[:, : latents.shape[1]]


def load_prior(folder: Path) -> Prior:
    """Read a prior, in evaluation mode and float32 on the CPU; tensors only, nothing in the folder is run.

    Raises:
        StoreError: a part is missing or broken, has left-over or missing weights, or is no unconditional denoiser.
    """
    for part in ("unet/config.json", "scheduler/scheduler_config.json"):
        if not (folder / part).is_file():
            raise StoreError(f"{folder}: no {part}; an unconditional diffusers pipeline was expected")
    try:
        scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    except ValueError as error:
        raise StoreError(f"{folder}/scheduler/scheduler_config.json: no JSON ({error})") from error
    unet = _load(UNet2DModel, folder / "unet")
    found = [name for name in AUTOENCODERS if (folder / name).is_dir()]
    autoencoder = _load(AUTOENCODERS[found[0]], folder / found[0]) if found else None
    channels = 3 if autoencoder is None else autoencoder.config.latent_channels
    if unet.config.in_channels != channels:
        raise StoreError(f"{folder}/unet: reads {unet.config.in_channels} channels, where the images have {channels}")
    prior = Prior(unet, scheduler, autoencoder)
    try:
        prior.schedulers(1)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise StoreError(f"{folder}/scheduler: not a noise schedule that DDIM can follow ({error})") from error
    return prior


def _load(kind: Any, folder: Path) -> Any:
    try:
        config = json.loads((folder / "config.json").read_text())
        name = config.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(f"{folder}/config.json: not readable ({error})") from error
    if name != kind.__name__:
        raise StoreError(f"{folder}: a {name}, where a {kind.__name__} was expected")
    try:
        network, report = kind.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    except Exception as error:  # diffusers promises no type
        raise StoreError(f"{folder}: not a readable {kind.__name__} ({error})") from error
    wrong = [
        f"{len(report[key])} {key.split('_')[0]} ({', '.join(map(str, report[key][:3]))})"
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report[key]
    ]
    if wrong:
        raise StoreError(f"{folder}: not the weights of its {kind.__name__}: {'; '.join(wrong)}")
    return network.eval()
