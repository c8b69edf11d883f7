"""VSAIT's losses (`losses/da_loss.py`).

Notation: n images, d dimensions of a hypervector, u x v places.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def adversarial_loss(*predictions: Tensor) -> Tensor:
    """What the generator and the mapping minimise: minus the discriminator's mean, over predictions [n, 1, u, v]."""
    return -_mean(predictions)


def discriminator_loss(fakes: list[Tensor], real: Tensor) -> Tensor:
    """The hinge loss: fakes below -1, real ones above 1; every prediction [n, 1, u, v] counts alike."""
    return _mean([*(F.relu(1 + fake) for fake in fakes), F.relu(1 - real)])


def vsa_loss(unbound: Tensor, source: Tensor) -> Tensor:
    """Mean cosine distance between hypervectors [n, d, u, v], the source's as they are."""
    return (1 - F.cosine_similarity(unbound, source.detach(), dim=1)).mean()


def _mean(values: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return sum((value.mean() for value in values), start=values[0].new_zeros(())) / len(values)
