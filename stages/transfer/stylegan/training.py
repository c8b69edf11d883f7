"""Training of StyleGAN2 (rosinality's `train.py`) and of an encoder for it, one step each; no step sees an identity.

The generator and its discriminator play the logistic game. Every 16th step the discriminator's gradient on photographs
is kept small (R1, weight 10), every 4th the generator's steps in w are kept of equal length (weight 2); both weights
are multiplied by the interval. Adam of rate 0.002 and betas (0, 0.99), each corrected for the extra steps
(`adam`), and a moving average of the generator's weights of half-life 10,000 images.

The encoder paints photographs again: pSp's squared distance + 0.8 perceptual, and e4e's 2e-4 on what a style adds to
the first. Their third term, the identity's by a face-recognition network, is left out: such networks know identities.

Notation: n images, s pixels of a side, L styles of d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from stages.transfer.stylegan.encoders import PyramidEncoder
from stages.transfer.stylegan.networks import Discriminator, Generator

R1_EVERY, PATH_EVERY = 16, 4  # steps


def adam(network: nn.Module, every: int, rate: float = 0.002) -> Adam:
    """The official optimiser of a network with an extra step after each `every` steps."""
    ratio = every / (every + 1)
    return Adam(network.parameters(), rate * ratio, (0.0, 0.99**ratio))


def draw_styles(generator: Generator, n: int, mixing: float = 0.9, draw: torch.Generator | None = None) -> Tensor:
    """Styles [n, L, d] of random z; with the probability `mixing`, those from a random layer on are of another z."""
    weight = next(generator.parameters())
    z = torch.randn(2, n, generator.dimension, generator=draw).to(weight)
    styles = generator.broadcast(generator.mapping(z[0]))
    if torch.rand((), generator=draw) < mixing:
        layer = int(torch.randint(1, generator.styles, (), generator=draw))
        styles = torch.cat([styles[:, :layer], generator.broadcast(generator.mapping(z[1]))[:, layer:]], 1)
    return styles


def draw_noise(generator: Generator, n: int, draw: torch.Generator | None = None) -> list[Tensor]:
    """Fresh noise for each layer, [n, 1, side, side]."""
    return [torch.randn(n, *fixed.shape[1:], generator=draw).to(fixed) for fixed in generator.noise()]


def discriminator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimiser: Optimizer,
    photographs: Tensor,
    step: int,
    r1: float = 10.0,
    draw: torch.Generator | None = None,
) -> dict[str, float]:
    """Tell photographs [n, 3, s, s] in [-1, 1] from paintings; every 16th step, also R1."""
    n = len(photographs)
    with torch.no_grad():
        painted = generator.synthesis(draw_styles(generator, n, draw=draw), draw_noise(generator, n, draw))
    loss = F.softplus(discriminator(painted)).mean() + F.softplus(-discriminator(photographs)).mean()
    _descend(optimiser, loss)
    losses = {"discriminator": float(loss.detach())}
    if step % R1_EVERY == 0:
        penalty = gradient_penalty(discriminator, photographs)
        _descend(optimiser, r1 / 2 * R1_EVERY * penalty)
        losses["r1"] = float(penalty.detach())
    return losses


def generator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimiser: Optimizer,
    n: int,
    step: int,
    length: Tensor,
    weight: float = 2.0,
    draw: torch.Generator | None = None,
) -> dict[str, float]:
    """Paint what passes for photographs; every 4th step, also the penalty on path lengths.

    Args:
        generator, discriminator, optimiser: the optimiser is the generator's.
        n: images, half as many for the penalty.
        step: counted from 0.
        length: () the moving average of path lengths, at first 0; updated in place.
        weight: of the penalty; without one, it is not measured.
        draw: of all that is random.
    """
    painted = generator.synthesis(draw_styles(generator, n, draw=draw), draw_noise(generator, n, draw))
    loss = F.softplus(-discriminator(painted)).mean()
    _descend(optimiser, loss)
    losses = {"generator": float(loss.detach())}
    if weight and step % PATH_EVERY == 0:
        few = max(1, n // 2)
        lengths = path_lengths(generator, draw_styles(generator, few, draw=draw), draw)
        length.lerp_(lengths.detach().mean(), 0.01)
        penalty = (lengths - length).square().mean()
        _descend(optimiser, weight * PATH_EVERY * penalty)
        losses["path"] = float(penalty.detach())
    return losses


def gradient_penalty(discriminator: nn.Module, photographs: Tensor) -> Tensor:
    """R1: the mean squared length of the logit's gradient in the image."""
    images = photographs.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def path_lengths(generator: Generator, styles: Tensor, draw: torch.Generator | None = None) -> Tensor:
    """How far a random direction in the image moves the styles [n, L, d]: [n]."""
    images = generator.synthesis(styles, draw_noise(generator, len(styles), draw))
    direction = torch.randn(images.shape, generator=draw).to(images) / math.sqrt(images[0, 0].numel())
    (gradient,) = torch.autograd.grad((images * direction).sum(), styles, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


@torch.no_grad()
def average(mean: nn.Module, network: nn.Module, n: int, half_life: float = 10_000) -> None:
    """Move the averaged network's weights to the other's, after a step with n images; officially n is 32."""
    for ours, theirs in zip(mean.parameters(), network.parameters(), strict=True):
        ours.lerp_(theirs, 1 - 0.5 ** (n / half_life))


def encoder_step(
    encoder: PyramidEncoder,
    generator: Generator,
    mean: Tensor,
    optimiser: Optimizer,
    photographs: Tensor,
    perceptual: Callable[[Tensor, Tensor], Tensor],
    delta: float = 0.0,
) -> dict[str, float]:
    """Paint photographs again.

    Args:
        encoder: in training mode.
        generator: fixed, unless the optimiser has its weights, too.
        mean: [d], of w.
        optimiser: of the encoder.
        photographs: [n, 3, s, s] in [-1, 1], of the encoder's size or the generator's, whichever is larger.
        perceptual: distance of images [n, 3, s, s] in [-1, 1], twice -> (); officially LPIPS.
        delta: weight of what a style adds to the first; e4e's is 2e-4, pSp's 0.
    """
    styles = encoder(F.adaptive_avg_pool2d(photographs, encoder.size)) + mean
    painted = F.adaptive_avg_pool2d(generator.synthesis(styles), min(encoder.size, generator.size))
    wanted = F.adaptive_avg_pool2d(photographs, painted.shape[2])
    losses = {
        "distance": F.mse_loss(painted, wanted),
        "perceptual": 0.8 * perceptual(painted, wanted),
        "delta": delta * (styles[:, 1:] - styles[:, :1]).norm(dim=2).sum(1).mean(),
    }
    _descend(optimiser, torch.stack(list(losses.values())).sum())
    return {name: float(loss.detach()) for name, loss in losses.items()}


def _descend(optimiser: Optimizer, loss: Tensor) -> None:
    """One step that moves the optimiser's parameters only, whatever else the loss depends on."""
    optimiser.zero_grad()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    loss.backward(inputs=parameters)
    optimiser.step()
