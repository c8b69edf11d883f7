"""DECENT's training (`decent_gan_model.py`): officially 400 epochs (`cut.linear_decay`), one 256 px image a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.transfer.cut import (
    LEARNING_RATE,
    PATCHES,
    Discriminator,
    ResnetGenerator,
    adam,
    discriminator_loss,
    draw_places,
    lsgan,
    save_states,
)
from stages.transfer.decent.losses import density_variance, negative_log_likelihood
from stages.transfer.decent.networks import PatchDensityEstimator, apply, channels
from stages.transfer.decent.optimiser import AveragingAdam
from stages.transfer.unpaired import Training, descend, detached, frozen

CLIP = 0.1  # norm of each density estimator's gradient, at most


class DecentTraining(Training):
    """The networks in training. A step draws the places of the patches.

    Args:
        generator: G.
        discriminator: D.
        densities: F_A of the source's features and F_B of the target's.
        gan, identity, variance: weights of the losses.
        patches: of each layer, at most.
        factor: of the learning rates, by the number of steps done; the density estimators' is one of them.
        lr, density_lr: learning rates, before the factor.
        polyak: of the average of the density estimators' weights.
    """

    losses: ClassVar[tuple[str, ...]] = ("gan", "identity", "variance", "density", "discriminator")

    def __init__(
        self,
        generator: ResnetGenerator,
        discriminator: Discriminator,
        densities: tuple[PatchDensityEstimator, PatchDensityEstimator],
        gan: float = 1.0,
        identity: float = 10.0,
        variance: float = 0.01,
        patches: int = PATCHES,
        factor: Callable[[int], float] = lambda step: 1.0,
        lr: float = LEARNING_RATE,
        density_lr: float = 1e-3,
        polyak: float = 0.998,
    ) -> None:
        self.generator, self.discriminator, self.densities = generator, discriminator, densities
        self.weights, self.patches = {"gan": gan, "identity": identity, "variance": variance}, patches
        self.of_generator, self.of_discriminator = adam(generator, lr), adam(discriminator, lr)
        weights = [weight for density in densities for weight in density.parameters()]
        self.of_densities = AveragingAdam(weights, density_lr, polyak=polyak)
        self.networks: dict[str, nn.Module] = dict(
            zip(("G", "F_A", "F_B", "D"), (generator, *densities, discriminator), strict=True)
        )
        optimisers = {"G": self.of_generator, "D": self.of_discriminator, "F": self.of_densities}
        super().__init__(self.networks, optimisers, factor)

    def step(self, source: Tensor, target: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Update the density estimators, the discriminator, then the generator; see `Training.step`."""
        self.schedule.advance()
        fake, of_source = self.generator.tapped(source)
        same, of_target = self.generator.tapped(target)

        density = self.densities_step(of_source, of_target, generator)

        discriminator = discriminator_loss(self.discriminator(fake.detach()), self.discriminator(target))
        descend(discriminator, self.of_discriminator)

        with self.of_densities.averaged(), frozen(self.discriminator, *self.densities):
            losses = {
                "gan": lsgan(self.discriminator(fake), True),
                "identity": F.l1_loss(same, target),
                "variance": self.variance(of_source, self.generator.encode(fake), generator),
            }
            descend(torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum(), self.of_generator)
        return detached(**losses, density=density, discriminator=discriminator)

    def densities_step(self, of_source: list[Tensor], of_target: list[Tensor], generator: torch.Generator) -> Tensor:
        """Fit the density estimators to feature maps [n, k, h, w] of both domains; gives their mean loss."""
        losses = []
        for density, features in zip(self.densities, (of_source, of_target), strict=True):
            places = draw_places(features, self.patches, generator)
            losses.append(negative_log_likelihood(density([x.detach() for x in features], places)))
        self.of_densities.zero_grad()
        torch.stack(losses).sum().backward()
        for density in self.densities:
            nn.utils.clip_grad_norm_(density.parameters(), CLIP)
        self.of_densities.step()
        return torch.stack(losses).mean()

    def variance(self, of_source: list[Tensor], of_fake: list[Tensor], generator: torch.Generator) -> Tensor:
        """The density-change variance between feature maps of an image and its translation, at the same places."""
        places = draw_places(of_source, self.patches, generator)
        with torch.no_grad():
            before = self.densities[0](of_source, places)
        return density_variance(before, self.densities[1](of_fake, places), channels(self.generator))

    def translate(self, images: np.ndarray) -> np.ndarray:
        """Map images [n, h, w, 3] uint8 RGB by the weights as they are."""
        return apply(self.generator, images)

    def save(self, folder: Path) -> None:
        """Write `latest_net_{G,F_A,F_B,D}.pth`."""
        save_states(folder, self.networks)
