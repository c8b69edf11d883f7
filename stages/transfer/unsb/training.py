"""UNSB's training (`sb_model.py`): officially 400 epochs (`cut.linear_decay`), one 256 px image a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stages.transfer.cut import LEARNING_RATE, PATCHES, adam, discriminator_loss, draw_places, lsgan, save_states
from stages.transfer.unpaired import Training, descend, detached, frozen
from stages.transfer.unsb.bridge import BRIDGE, Bridge, Draw, apply, number
from stages.transfer.unsb.losses import bridge_loss, energy_loss, patch_nce
from stages.transfer.unsb.networks import Discriminator, Generator, PatchProjector


class UNSBTraining(Training):
    """The networks in training. A step draws how far its images have come, all noise, and the places of the patches.

    Args:
        generator: G.
        discriminator: D.
        energy: E, of 12 channels.
        projector: F.
        bridge: times and noise.
        gan, sb, contrast: weights of the losses. `sb` is that of the README's training command; the code's own default
            is 0.1.
        patches: of each layer, at most.
        factor: of the learning rates, by the number of steps done.
        lr: learning rate, before the factor.
    """

    losses: ClassVar[tuple[str, ...]] = ("gan", "sb", "contrast", "discriminator", "energy")

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        energy: Discriminator,
        projector: PatchProjector,
        bridge: Bridge = BRIDGE,
        gan: float = 1.0,
        sb: float = 1.0,
        contrast: float = 1.0,
        patches: int = PATCHES,
        factor: Callable[[int], float] = lambda step: 1.0,
        lr: float = LEARNING_RATE,
    ) -> None:
        self.generator, self.discriminator, self.energy, self.projector = generator, discriminator, energy, projector
        self.bridge, self.weights, self.patches = bridge, {"gan": gan, "sb": sb, "contrast": contrast}, patches
        self.networks: dict[str, nn.Module] = {"G": generator, "F": projector, "D": discriminator, "E": energy}
        self.optimisers = {name: adam(network, lr) for name, network in self.networks.items()}
        super().__init__(self.networks, self.optimisers, factor)

    def step(
        self, source: Tensor, target: Tensor, generator: torch.Generator, second: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Update the discriminator, the energy network, then generator and projector; see `Training.step`.

        Args:
            source, target, generator: as there.
            second: [n, 3, h, w], other images of the source, against which the energy network compares; by default the
                batch's own in turn, or of a batch of one, its mirror image.
        """
        self.schedule.advance()
        if second is None:
            second = source.roll(1, 0) if len(source) > 1 else source.flip(3)
        draw = _draws(generator, torch.cat([source, target, second]))
        t = int(torch.randint(self.bridge.steps, (1,), generator=generator, device=generator.device))
        with torch.no_grad():
            stands = self.bridge.walk(self.generator, torch.cat([source, target, second]), t, draw)
        ends = self.generator(stands, number(t, stands), draw(self.generator.noise))
        (x, _, x_second), (fake, same, fake_second) = stands.chunk(3), ends.chunk(3)
        t_each, left = number(t, source), 1 - t / self.bridge.steps

        of_fake, of_real = self.discriminator(fake.detach(), t_each), self.discriminator(target, t_each)
        discriminator = discriminator_loss(of_fake, of_real)
        descend(discriminator, self.optimisers["D"])

        energy = energy_loss(*self.energies(x, fake.detach(), x_second, fake_second.detach(), t_each))
        descend(energy, self.optimisers["E"])

        with frozen(self.discriminator, self.energy):
            own, cross = self.energies(x, fake, x_second, fake_second, t_each)
            losses = {
                "gan": lsgan(self.discriminator(fake, t_each), True),
                "sb": bridge_loss(own, cross, x, fake, left, self.bridge.tau),
                "contrast": (self.contrast(source, fake, generator) + self.contrast(target, same, generator)) / 2,
            }
            loss = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
            descend(loss, self.optimisers["G"], self.optimisers["F"])
        return detached(**losses, discriminator=discriminator, energy=energy)

    def energies(
        self, x: Tensor, fake: Tensor, x_second: Tensor, fake_second: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of pairs (where an image stands, where it leads) with themselves, and with the second images' pairs."""
        pair, second = torch.cat([x, fake], 1), torch.cat([x_second, fake_second], 1)
        return self.energy(pair, t, pair), self.energy(pair, t, second)

    def contrast(self, images: Tensor, translated: Tensor, generator: torch.Generator) -> Tensor:
        """PatchNCE between images [n, 3, h, w] and their translations, mean of the layers; the encoder sees step 0."""
        t, z = number(0, images), _draws(generator, images)(self.generator.noise)
        with torch.no_grad():
            of_images = self.generator.encode(images, t, z)
            places = draw_places(of_images, self.patches, generator)
            keys = self.projector(of_images, places)
        queries = self.projector(self.generator.encode(translated, t, z), places)
        return torch.stack([patch_nce(query, key) for query, key in zip(queries, keys, strict=True)]).mean()

    def translate(self, images: np.ndarray) -> np.ndarray:
        """Map images [n, h, w, 3] uint8 RGB by the weights as they are."""
        return apply(self.generator, images, self.bridge.steps, bridge=self.bridge)

    def save(self, folder: Path) -> None:
        """Write `latest_net_{G,F,D,E}.pth`."""
        save_states(folder, self.networks)


def _draws(generator: torch.Generator, images: Tensor) -> Draw:
    """Normal numbers for each of the images, from a generator."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(len(images), *shape, generator=generator, device=generator.device).to(images)

    return draw
