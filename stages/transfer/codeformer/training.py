"""CodeFormer's training, one step of each of its three stages (`basicsr/models`, `options/*.yml`).

1. `vqgan_step`: the autoencoder on clean faces. L1 + perceptual + codebook + 0.8 adaptive GAN; lr 7e-5.
2. `code_step`: the transformer on strongly degraded faces. 0.5 cross-entropy of the codes + 1 latent distance; lr 1e-4.
3. `fusion_step`: everything but codebook and generator. As 2 on strongly degraded faces; on mildly degraded ones also
   L1 + perceptual + 0.1 adaptive GAN; lr 5e-5, cosine to 2e-5 (`fusion_phase` has the schedule of w).

Adam throughout, betas 0.9 and 0.99. No step sees an identity. The discriminator joins after `start` steps (30,001 in
stage 1, 5,001 in stage 3).

Notation: n images, s pixels of a side, t x t latent positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from stages.transfer.codeformer.networks import VQGAN, CodeFormer, Discriminator

Perceptual = Callable[
    [Tensor, Tensor], Tensor
]  # images [n, 3, s, s] in [-1, 1], twice -> distance (); LPIPS officially


def vqgan_step(
    network: VQGAN,
    discriminator: Discriminator | None,
    optimisers: tuple[Optimizer, Optimizer | None],
    clean: Tensor,
    perceptual: Perceptual,
    gan: float = 0.8,
) -> dict[str, float]:
    """One step of stage 1.

    Args:
        network, discriminator: in training mode; no discriminator before it starts.
        optimisers: of the two.
        clean: [n, 3, s, s] in [-1, 1].
        perceptual: the perceptual distance.
        gan: weight of the adversarial loss beside its adaptive weight.

    Returns:
        The losses.
    """
    output, codebook, _ = network(clean)
    reconstruction = F.l1_loss(output, clean) + perceptual(output, clean)
    losses = {"reconstruction": reconstruction, "codebook": codebook}
    if discriminator is not None:
        last: Any = network.generator.blocks[-1]
        losses["gan"] = gan * _adversarial(discriminator, output, reconstruction, last.weight)
    _descend(optimisers[0], losses)
    return _numbers(losses) | _discriminate(discriminator, optimisers[1], clean, output.detach())


def code_losses(network: CodeFormer, logits: Tensor, latents: Tensor, codes: Tensor) -> dict[str, Tensor]:
    """What stage 2 minimises, given the clean images' code numbers [n, t * t]."""
    return {
        "codes": 0.5 * F.cross_entropy(logits.transpose(1, 2), codes),
        "latents": F.mse_loss(latents, network.quantize.look_up(codes).detach()),
    }


def clean_codes(vqgan: VQGAN, clean: Tensor) -> Tensor:
    """The clean images' code numbers [n, t * t], by the fixed autoencoder of stage 1."""
    with torch.no_grad():
        return vqgan.quantize.nearest(vqgan.encoder(clean))


def code_step(
    network: CodeFormer, vqgan: VQGAN, optimiser: Optimizer, clean: Tensor, degraded: Tensor
) -> dict[str, float]:
    """One step of stage 2: read the clean image's codes off the degraded one, [n, 3, s, s] in [-1, 1] both."""
    logits, latents, _ = network.predict(degraded)
    losses = code_losses(network, logits, latents, clean_codes(vqgan, clean))
    _descend(optimiser, losses)
    return _numbers(losses)


def fusion_phase(step: int) -> tuple[float, bool]:
    """The official stage 3 at a step, counted from 1: w, and whether the degradation is mild (then images are made)."""
    if step <= 40_000:
        return 1.0, True
    if step <= 80_000:
        return 1.3, True
    if step <= 120_000:
        return 0.0, step % 120_000 == 0
    return 1.3, step % 15 == 0


def fusion_step(
    network: CodeFormer,
    vqgan: VQGAN,
    discriminator: Discriminator | None,
    optimisers: tuple[Optimizer, Optimizer | None],
    clean: Tensor,
    degraded: Tensor,
    perceptual: Perceptual,
    w: float,
    mild: bool,
    gan: float = 0.1,
) -> dict[str, float]:
    """One step of stage 3; the arguments as in stages 1 and 2, w and mild as `fusion_phase` has them."""
    if not mild:
        return code_step(network, vqgan, optimisers[0], clean, degraded)
    output, logits, latents = network(degraded, w)
    losses = code_losses(network, logits, latents, clean_codes(vqgan, clean))
    reconstruction = losses["reconstruction"] = F.l1_loss(output, clean) + perceptual(output, clean)
    if discriminator is not None:
        fuse: Any = list(network.fuse_convs_dict.values())[-1]
        losses["gan"] = gan * _adversarial(discriminator, output, reconstruction, fuse.shift[-1].weight)
    _descend(optimisers[0], losses)
    return _numbers(losses) | _discriminate(discriminator, optimisers[1], clean, output.detach())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor, limit: float = 1.0) -> Tensor:
    """How much stronger the reconstruction pulls at the last layer than the discriminator, at most `limit`."""
    grads = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    return (grads[0] / (grads[1] + 1e-4)).clamp(0, limit).detach()


def _adversarial(discriminator: nn.Module, output: Tensor, reconstruction: Tensor, last: Tensor) -> Tensor:
    discriminator.requires_grad_(False)
    loss = -discriminator(output).mean()
    if not reconstruction.requires_grad:  # w is 0: the image hangs on fixed codes alone
        return loss
    return adaptive_weight(reconstruction, loss, last) * loss


def _discriminate(
    discriminator: nn.Module | None, optimiser: Optimizer | None, clean: Tensor, output: Tensor
) -> dict[str, float]:
    if discriminator is None or optimiser is None:
        return {}
    discriminator.requires_grad_(True)
    losses = {"real": F.relu(1 - discriminator(clean)).mean(), "fake": F.relu(1 + discriminator(output)).mean()}
    _descend(optimiser, losses)
    return _numbers(losses)


def _descend(optimiser: Optimizer, losses: dict[str, Tensor]) -> None:
    optimiser.zero_grad()
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    optimiser.step()


def _numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in losses.items()}
