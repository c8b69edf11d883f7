"""VSAIT's training (`solver.py`, `iit.py`, `configs/vsait.yaml`): officially 200,000 steps, one 256 px image each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from stages.transfer.unpaired import Training, descend, detached, frozen
from stages.transfer.vsait.losses import adversarial_loss, discriminator_loss, vsa_loss
from stages.transfer.vsait.networks import VSAIT, apply, save_official

BETAS, DECAY = (0.0, 0.9), 1e-4  # of Adam, for all networks


def halving(step: int, length: int = 100_000) -> float:
    """The official schedule: the learning rates halve every `length` steps."""
    return 0.5 ** (step // length)


class VSAITTraining(Training):
    """The networks in training. A step draws nothing.

    The mapping network learns with the generator, at its rate: the official prefix `model.g_net` means both.

    Args:
        network: all networks but the features.
        features: images [n, 3, h, w] -> feature maps, fixed.
        vsa: weight of the VSA loss.
        generator_rate, discriminator_rate: of learning.
        factor: of the learning rates, by the number of steps done.
    """

    losses: ClassVar[tuple[str, ...]] = ("adversarial", "vsa", "discriminator")

    def __init__(
        self,
        network: VSAIT,
        features: nn.Module,
        vsa: float = 10.0,
        generator_rate: float = 1e-4,
        discriminator_rate: float = 4e-4,
        factor: Callable[[int], float] = halving,
    ) -> None:
        self.network, self.features, self.vsa = network, features.requires_grad_(False), vsa
        learned = [*network.g_net.parameters(), *network.g_net_map.parameters()]
        self.of_generator = Adam(learned, generator_rate, BETAS, weight_decay=DECAY)
        self.of_discriminator = Adam(network.d_net.parameters(), discriminator_rate, BETAS, weight_decay=DECAY)
        optimisers = {"g_net": self.of_generator, "d_net": self.of_discriminator}
        super().__init__({"model": network}, optimisers, factor)

    def step(self, source: Tensor, target: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Update the generator with the mapping, then the discriminator on images made anew; see `Training.step`."""
        self.schedule.advance()
        g_net, d_net, g_net_map = self.network.g_net, self.network.d_net, self.network.g_net_map
        with torch.no_grad():
            of_source, of_target = self.hypervectors(source), self.hypervectors(target)

        of_fake, mapping = self.hypervectors(g_net(source)), g_net_map(of_source)
        with frozen(d_net):
            adversarial = adversarial_loss(d_net(of_fake), d_net(of_source * mapping))
        vsa = vsa_loss(of_fake * mapping.detach(), of_source)
        descend(adversarial + self.vsa * vsa, self.of_generator)

        with torch.no_grad():
            of_fake, mapped = self.hypervectors(g_net(source)), of_source * g_net_map(of_source)
        discriminator = discriminator_loss([d_net(of_fake), d_net(mapped)], d_net(of_target))
        descend(discriminator, self.of_discriminator)
        return detached(adversarial=adversarial, vsa=vsa, discriminator=discriminator)

    def hypervectors(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [-1, 1] -> [n, d, h/16, w/16]."""
        return self.network.lsh_feat(self.features(images))

    def translate(self, images: np.ndarray) -> np.ndarray:
        """Map images [n, h, w, 3] uint8 RGB by the weights as they are."""
        return apply(self.network.g_net, images)

    def save(self, folder: Path) -> None:
        """Write `vsait.ckpt`, in the official layout without the features."""
        save_official(folder / "vsait.ckpt", self.network)
