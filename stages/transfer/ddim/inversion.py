"""DDIM inversion (Song et al. 2021): the noise from which a diffusion model would make an image, and the image again.

    prior = load_prior(Path("ddpm-ema-celebahq-256")).to("cuda")
    images = apply(prior, images, Inversion(steps=50, depth=0.5))

DDIM's update takes x from the time t to t' without any draw: with ᾱ the signal's share of the variance,

    x0 = (x - sqrt(1 - ᾱ(t)) ε) / sqrt(ᾱ(t)),    x' = sqrt(ᾱ(t')) x0 + sqrt(1 - ᾱ(t')) ε.

Towards noise, ε is asked for at the later time, where x is not yet; this is the inversion's only error, and vanishes
with small steps. What is left of it, and the model's own opinion, is what changes a rendered image.

Notation: n images, h x w pixels, T training times, ε the model's noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.knobs import PRECISIONS, check
from stages.transfer.checkpoint import check_images, in_batches, to_images, to_network
from stages.transfer.ddim.prior import Prior
from stages.transfer.ffhq import cut, points_of, put_back, resize

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Inversion:
    """How images are inverted. Syn2Auth gives no numbers; the steps are diffusers' habit, the depth is its text's."""

    steps: int = 50  # of the whole way from image to noise, at most T
    depth: float = 1.0  # fraction of the steps that are gone, in (0, 1]; 1 is all the way to noise
    precision: str = "fp32"  # fp32 | bf16 | fp16, of the networks; the updates stay in float32
    size: int | None = None  # px, square, of the output; None: as it comes, the prior's size or the image with its face
    batch: int = 8  # images at a time on a GPU

    def __post_init__(self) -> None:
        check(self.steps >= 1, f"ddim.steps is {self.steps}: at least 1")
        check(0 < self.depth <= 1, f"ddim.depth is {self.depth}: more than 0, at most 1")
        check(self.precision in PRECISIONS, f"ddim.precision {self.precision!r}: one of {', '.join(PRECISIONS)}")
        check(self.size is None or self.size >= 1, f"ddim.size is {self.size} px: at least 1, or none")
        check(self.batch >= 1, f"ddim.batch is {self.batch}: at least 1")

    @property
    def gone(self) -> int:
        """How many of the steps are gone, at least one."""
        return max(1, round(self.depth * self.steps))


def apply(
    prior: Prior, images: np.ndarray, settings: Inversion | None = None, points: np.ndarray | None = None
) -> np.ndarray:
    """Invert images and denoise them again. Nothing is drawn: an image depends on itself only.

    Args:
        prior: networks in evaluation mode.
        images: [n, h, w, 3] uint8, RGB.
        settings: the knobs.
        points: [n, 5, 2] px, the eyes, nose and corners of the mouth, for a prior of faces cut as FFHQ is; none: the
            images are cut as the prior's are.

    Returns:
        [n, size, size, 3] uint8, RGB. Without `size`: [n, h, w, 3] with points, else of the prior's size.

    Raises:
        ValueError: images or points of another shape, or more steps than the prior was trained with.
    """
    settings = settings or Inversion()
    check_images(images)
    all_points = points_of(points, len(images))

    def some(images: np.ndarray, part: slice) -> np.ndarray:
        those = all_points[part]
        faces = np.stack([cut(*each, prior.size) for each in zip(images, those, strict=True)])
        out = to_images(_there_and_back(prior, faces, settings))
        if points is not None:
            out = np.stack([put_back(*each) for each in zip(images, those, out, strict=True)])
        return out if settings.size is None else np.stack([resize(image, settings.size) for image in out])

    return in_batches(some, images, settings.batch, prior.unet.device)


def invert(prior: Prior, latents: Tensor, settings: Inversion) -> Tensor:
    """Towards noise: [n, c, t, t] -> the same."""
    inverse, _ = prior.schedulers(settings.steps)
    return _walk(prior, latents, inverse, inverse.timesteps[: settings.gone])


def denoise(prior: Prior, latents: Tensor, settings: Inversion) -> Tensor:
    """Back from where `invert` stopped: [n, c, t, t] -> the same."""
    _, forward = prior.schedulers(settings.steps)
    return _walk(prior, latents, forward, forward.timesteps[-settings.gone :])


def round_trip(prior: Prior, images: np.ndarray, settings: Inversion) -> np.ndarray:
    """How well images of the prior's size, [n, s, s, 3] uint8, come back: PSNR [n], dB."""
    error = (apply(prior, images, settings).astype(float) - images) ** 2
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error.mean((1, 2, 3)))


def _walk(prior: Prior, latents: Tensor, scheduler: object, times: Tensor) -> Tensor:
    for time in times:
        predicted = prior.predict(latents, time).to(latents.dtype)
        latents = scheduler.step(predicted, int(time), latents, return_dict=False)[0]  # type: ignore[attr-defined]
    return latents


@torch.inference_mode()
def _there_and_back(prior: Prior, faces: np.ndarray, settings: Inversion) -> Tensor:
    dtype = DTYPES[settings.precision]
    pixels = to_network(faces, prior.unet)
    with torch.autocast(pixels.device.type, dtype, enabled=dtype != torch.float32):
        latents = prior.encode(pixels).to(pixels.dtype)
        return prior.decode(denoise(prior, invert(prior, latents, settings), settings))
