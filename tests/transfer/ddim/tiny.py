"""Diffusers folders of the official classes, small, and a denoiser that is exact in closed form."""

from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DModel, VQModel
from torch import nn

from stages.transfer.ddim import Prior

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}
AUTOENCODER = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}


def write_prior(folder: Path, latent: str = "", scheduler=DDPMScheduler, seed: int = 0, **unet) -> Path:
    torch.manual_seed(seed)
    channels = {"in_channels": 4, "out_channels": 4} if latent else {}
    UNet2DModel(**{**UNET, **channels, **unet}).save_pretrained(folder / "unet")
    scheduler().save_pretrained(folder / "scheduler")
    if latent == "vae":
        AutoencoderKL(**AUTOENCODER).save_pretrained(folder / "vae")
    elif latent == "vqvae":
        VQModel(**AUTOENCODER, vq_embed_dim=4, num_vq_embeddings=8).save_pretrained(folder / "vqvae")
    return folder


class Gaussian(nn.Module):
    """The exact ε of images that are normal with mean `mean` and deviation `spread` in every pixel.

    With ᾱ the signal's share, x is normal with variance v = ᾱ spread² + 1 - ᾱ, and ε is
    sqrt(1 - ᾱ) (x - sqrt(ᾱ) mean) / v.
    Followed without error, the path of an image keeps its deviation from the mean in units of sqrt(v).
    """

    def __init__(
        self, mean: float = 0.2, spread: float = 0.3, dtype: torch.dtype = torch.float64, size: int = 8
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=dtype))
        self.mean, self.spread = mean, spread
        self.config = SimpleNamespace(sample_size=size, in_channels=3)
        self.alphas = DDIMScheduler().alphas_cumprod.to(dtype)
        self.device = torch.device("cpu")

    def forward(self, x, time):
        alpha = self.alphas[int(time)]
        variance = alpha * self.spread**2 + 1 - alpha
        noise = (1 - alpha).sqrt() * (x - alpha.sqrt() * self.mean) / variance
        return SimpleNamespace(sample=noise)


def gaussian(**knobs) -> Prior:
    return Prior(Gaussian(**knobs), dict(DDIMScheduler().config))
