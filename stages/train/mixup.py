"""Soft labels and domain mixup, as SynFace trains (Qiu et al. 2021, `lib/core/functions.py`).

A soft label is k labels and their weights. An image of mixed identities has two; domain mixup adds those of the real
image. Officially logits and losses are both mixed: each label's margin is put on by its weight, and each label's
cross-entropy counts by its weight.

Notation: n images, k labels of each, d dimensions, c classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.train.heads import Head

RATIOS = np.linspace(0, 1.05, 21, endpoint=False)  # official: 0, 0.05, ..., 1
MIX = 4  # apart from other draws in a generator's seed


class Batch(NamedTuple):
    """Images and their soft labels, whose weights sum to 1."""

    images: Tensor  # [n, 3, h, w] float32 in [-1, 1]
    labels: Tensor  # [n, k] int64
    weights: Tensor  # [n, k] float32


def hard(images: Tensor, labels: Tensor) -> Batch:
    """Images with one label [n] each."""
    return Batch(images, labels[:, None], torch.ones_like(labels, dtype=torch.float32)[:, None])


def domain_ratio(seed: int, step: int) -> float:
    """The synthetic images' share in a step's batch: one of `RATIOS`, the same for all of the batch."""
    return float(np.random.default_rng([seed, MIX, step]).choice(RATIOS))


def mix_domains(synthetic: Batch, real: Batch, ratio: float) -> Batch:
    """Domain mixup: each synthetic image, augmented, with the real one at its place.

    Args:
        synthetic, real: n images of one size each, with labels of one label space.
        ratio: the synthetic images' share, 0 to 1.
    """
    return Batch(
        ratio * synthetic.images + (1 - ratio) * real.images,
        torch.cat([synthetic.labels, real.labels], dim=1),
        torch.cat([ratio * synthetic.weights, (1 - ratio) * real.weights], dim=1),
    )


def mix_halves(ratio: float, images: Tensor, labels: Tensor, weights: Tensor | None = None) -> Batch:
    """Domain mixup of a batch whose first half is synthetic and whose second is real.

    Args:
        ratio: the synthetic images' share, 0 to 1.
        images: [2n, 3, h, w] float32 in [-1, 1].
        labels: [2n] int64; with `weights`, [2n, k].
        weights: [2n, k] float32, of soft labels.

    Returns:
        n images.
    """
    both = hard(images, labels) if weights is None else Batch(images, labels, weights)
    synthetic, real = zip(*(part.chunk(2) for part in both), strict=True)
    return mix_domains(Batch(*synthetic), Batch(*real), ratio)


def soft_logits(head: Head, embeddings: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """A margin head's logits for each of the labels, mixed by their weights.

    AdaFace's statistics move once a label: officially each label is a call of the head.

    Args:
        head: of c classes.
        embeddings: [n, d] float32, raw.
        labels: [n, k] int64.
        weights: [n, k] float32, of sum 1.

    Returns:
        Scaled logits [n, c], and cosines [n, c] (detached).
    """
    logits, cosines = zip(*(head(embeddings, label) for label in labels.unbind(1)), strict=True)
    return sum(weight[:, None] * logit for weight, logit in zip(weights.unbind(1), logits, strict=True)), cosines[0]


def soft_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The labels' cross-entropies by their weights, mean over the images; labels and weights [n, k]."""
    return -(weights * logits.log_softmax(1).gather(1, labels)).sum(1).mean()


def margin_loss(head: Head, embeddings: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and the share of images that are nearest to their class, that of the largest weight.

    Args:
        head: of c classes.
        embeddings: [n, d] float32, raw.
        labels: [n] int64; with `weights`, [n, k].
        weights: [n, k] float32, of soft labels.
    """
    if weights is None:
        logits, cosines = head(embeddings, labels)
        loss = F.cross_entropy(logits, labels)
    else:
        logits, cosines = soft_logits(head, embeddings, labels, weights)
        loss = soft_cross_entropy(logits, labels, weights)
        labels = labels.gather(1, weights.argmax(1, keepdim=True))[:, 0]
    return loss, (cosines.argmax(1) == labels).float().mean()
