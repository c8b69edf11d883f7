"""Soft labels and domain mixup, as SynFace trains (Qiu et al. 2021, `lib/core/functions.py`).

A soft label is k labels and their weights. An image of mixed identities has two; domain mixup adds those of the real
image. Officially logits and losses are both mixed (`PartialFC`).

Notation: n images, k labels of each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RATIOS = np.linspace(0, 1.05, 21, endpoint=False)  # official: 0, 0.05, ..., 1
MIX = 4  # apart from other draws in a generator's seed


def domain_ratio(seed: int, step: int) -> float:
    """The synthetic images' share in a step's batch: one of `RATIOS`, the same for all of the batch."""
    return float(np.random.default_rng([seed, MIX, step]).choice(RATIOS))


def mix_images(ratio: float, images: Tensor) -> Tensor:
    """Domain mixup of the pixels: each synthetic image, augmented, with the real one at its place.

    Args:
        ratio: the synthetic images' share, 0 to 1.
        images: [2n, 3, h, w] float32 in [-1, 1], the first half synthetic, the second real.

    Returns:
        n images.
    """
    synthetic, real = images.chunk(2)
    return ratio * synthetic + (1 - ratio) * real


def mix_labels(ratio: float, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The labels of such a batch, of one label space.

    Args:
        ratio: the synthetic images' share, 0 to 1.
        labels: [2n] int64; with `weights`, [2n, k].
        weights: [2n, k] float32, of soft labels.

    Returns:
        Labels [n, 2k] int64 and weights [n, 2k] float32, the synthetic ones first.
    """
    if weights is None:
        labels, weights = labels[:, None], torch.ones(len(labels), 1)
    shares = torch.cat([part * share for part, share in zip(weights.chunk(2), (ratio, 1 - ratio), strict=True)], dim=1)
    return torch.cat(labels.chunk(2), dim=1), shares
