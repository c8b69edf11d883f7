"""DECENT's losses beside LSGAN (`decent_gan_model.py`).

Notation: n images, p patches of a layer, k channels of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def negative_log_likelihood(log_densities: Sequence[Tensor]) -> Tensor:
    """What density estimators minimise, given [n, p] of every layer: mean of patches, then of layers; in nats."""
    return -torch.stack([layer.mean() for layer in log_densities]).mean()


def density_variance(source: Sequence[Tensor], fake: Sequence[Tensor], channels: Sequence[int]) -> Tensor:
    """How unevenly a translation changes the density of an image's patches.

    Args:
        source: log-densities [n, p] of every layer's patches in the source domain, as they are.
        fake: log-densities of the same patches, translated, in the target domain.
        channels: k of every layer.

    Returns:
        (): the unbiased variance of the change in bits per dimension among an image's patches; mean of images, then
        of layers.
    """
    layers = zip(source, fake, channels, strict=True)
    changes = [(before.detach() - after) / (k * math.log(2)) for before, after, k in layers]
    return torch.stack([change.var(1).mean() for change in changes]).mean()
