"""Train the embedded world's prior of DDIM inversion: an unconditional UNet on the latents of a VAE that stands.

    python prior.py --images generator/data/align --vae ../stages/transfer/arc2face/generator/vae --out prior/data

From a set of aligned faces; who they show is not read. A killed run goes on from its last checkpoint, to the same bits.
Under `--out`: `prior/`, a diffusers folder in fp16 with `training.json` beside its parts; `samples.png`.

Notation: n images, c x t x t latents.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from generator import Examples, autocast, batch_rows, fit, load_part
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from stages.images import read_faces
from stages.pictures import save_png, sheet
from stages.store import fingerprint
from stages.training import made_once
from stages.transfer.checkpoint import to_images
from stages.transfer.ddim import Inversion, apply, load_prior
from stages.transfer.ddim.inversion import denoise

STAGE = "pretrain"  # its folder in the cache


@dataclass(frozen=True)
class Training:
    """Sizes and schedules."""

    size: int = 96  # px; a multiple of the VAE's factor
    channels: tuple[int, ...] = (64, 96, 128)
    steps: int = 4000
    batch_size: int = 32
    lr: float = 5e-4
    warmup: float = 0.02  # share of the steps; a cosine to zero follows
    prediction: str = "v_prediction"  # epsilon | v_prediction
    snr: float = 5.0  # the loss of a step weighs min(SNR, this) of the noise (Hang et al., 2023): all steps learn alike
    ema: float = 0.999
    bf16: bool = True
    seed: int = 0


def create_unet(training: Training, vae: AutoencoderKL) -> UNet2DModel:
    """A small denoiser of the VAE's latents."""
    levels = len(training.channels)
    return UNet2DModel(
        sample_size=training.size // 2 ** (len(vae.config.block_out_channels) - 1),
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        block_out_channels=training.channels,
        layers_per_block=1,
        # attention in the middle only: at the highest resolution it would take half of the time
        down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * (levels - 2) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("AttnUpBlock2D",) * (levels - 2) + ("UpBlock2D",),
        attention_head_dim=32,
        norm_num_groups=8,
    )


def read_latents(examples: Examples, vae: Any, training: Training, origin: list[str]) -> torch.Tensor:
    """Latents of all images, then of their mirror images, as the denoiser sees them: [2 n, c, t, t] float32."""
    mixed = autocast(training, vae.device.type)

    @torch.no_grad()
    def encode(path: Path) -> dict[str, float]:
        count, means = len(examples.faces), ([], [])
        for rows in tqdm(np.array_split(np.arange(count), math.ceil(count / 64)), desc="latents"):
            pixels = examples.pixels(rows, training.size).to(vae.device)
            with torch.autocast(**mixed):
                for one, shown in zip(means, (pixels, pixels.flip(3)), strict=True):
                    one.append(vae.encode(shown).latent_dist.mean.float().cpu())
        save_file({"latents": torch.cat([*means[0], *means[1]]).contiguous()}, path)
        return {}

    key = fingerprint(examples.digest, origin, training.size, mixed["device_type"], training.bf16, "latents")
    latents = load_file(made_once(STAGE, key, "latents.safetensors", encode).path)["latents"]
    return (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def train(images: Path, vae_folder: Path, training: Training, out: Path, device: str = "cpu") -> None:
    """Train the UNet, and save the prior to `out/prior`.

    Args:
        images: a set of faces.
        vae_folder: diffusers' folder of the VAE, which is copied.
        training: sizes and schedules.
        out: the folder of results.
        device: of torch.
    """
    began = time.perf_counter()
    faces = read_faces(images)
    examples = Examples(faces, torch.empty(0), torch.empty(0), faces.digest())
    vae = load_part(AutoencoderKL, vae_folder).eval().to(device)
    origin = [fingerprint(path) for path in sorted(vae_folder.iterdir())]
    latents = read_latents(examples, vae, training, origin)

    noising = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=training.prediction,
        clip_sample=False,
    )
    ratio = noising.alphas_cumprod / (1 - noising.alphas_cumprod)  # the signal-to-noise ratio of a step
    weight = ratio.clamp(max=training.snr) / (ratio if training.prediction == "epsilon" else ratio + 1)
    mixed = autocast(training, device)
    torch.manual_seed(training.seed)
    unet: Any = create_unet(training, vae).to(device)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        clean = latents[batch_rows(len(latents), training.batch_size, step, training.seed, "prior")]
        noise = torch.randn(clean.shape, generator=generator)
        moment = torch.randint(noising.config.num_train_timesteps, (len(clean),), generator=generator)
        goal = noise if training.prediction == "epsilon" else noising.get_velocity(clean, noise, moment)
        with torch.autocast(**mixed):
            output = unet(noising.add_noise(clean, noise, moment).to(device), moment.to(device)).sample
        error = (output.float() - goal.to(device)).square().mean(dim=(1, 2, 3))
        return (weight[moment].to(device) * error).mean()

    code = [fingerprint(Path(__file__).with_name(name)) for name in ("generator.py", "prior.py")]
    key = fingerprint(code, training, examples.digest, origin, mixed["device_type"])
    loss = fit("prior", unet, loss_of, training.steps, training.batch_size, training.lr, training, key)

    folder = out / "prior"
    copy.deepcopy(unet).to(dtype=torch.float16).save_pretrained(folder / "unet")
    noising.save_pretrained(folder / "scheduler")
    shutil.copytree(vae_folder, folder / "vae", dirs_exist_ok=True)
    report = {
        "training": asdict(training),
        "images": len(faces),
        "data": examples.digest,
        "parameters": {"unet": unet.num_parameters(), "vae": vae.num_parameters()},
        "loss": loss,
        "seconds": round(time.perf_counter() - began),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n")


@torch.no_grad()
def samples(folder: Path, images: Path, columns: int = 8) -> np.ndarray:
    """A sheet: what the prior makes of noise; images, and what they come back as, by the number of steps."""
    prior, faces = load_prior(folder), read_faces(images)
    side, channels = prior.unet.config.sample_size, prior.unet.config.in_channels
    noise = torch.randn(2 * columns, channels, side, side, generator=torch.Generator().manual_seed(0))
    made = to_images(prior.decode(denoise(prior, noise, Inversion(steps=50))))
    shown = np.stack([faces.image(row) for row in np.linspace(0, len(faces) - 1, columns).astype(int).tolist()])
    lines = {"noise": list(made[:columns]), "more noise": list(made[columns:]), "images": list(shown)}
    for steps in (5, 10, 20):
        lines[f"and back, {steps} steps"] = list(apply(prior, shown, Inversion(steps=steps)))
    return sheet(lines)


def main(
    images: Annotated[Path, typer.Option(help="A set of aligned faces.")],
    vae: Annotated[Path, typer.Option(help="A diffusers folder of the VAE whose latents it learns.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")],
    steps: int = Training.steps,
    lr: float = Training.lr,
    seed: int = Training.seed,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int = 2,
) -> None:
    """Train the embedded world's prior; `Training` states the other sizes."""
    torch.set_num_threads(threads)
    train(images, vae, Training(steps=steps, lr=lr, seed=seed), out, device)
    save_png(out / "samples.png", samples(out / "prior", images))


if __name__ == "__main__":
    typer.run(main)
