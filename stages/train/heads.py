"""Margin heads: embeddings [n, d] and labels [n] -> scaled logits [n, c] for the cross-entropy.

All three put a margin on the cosine between an embedding and its own class's centre, and scale all cosines by s:

- CosFace (Wang et al. 2018): cos θ - m
- ArcFace (Deng et al. 2019): cos(θ + m)
- AdaFace (Kim et al. 2022, `head.py`): cos(θ - m z) - (m + m z), z the image's quality, read off its embedding's norm

Notation: n images, d dimensions, c classes, θ the angle to the own class's centre, m margin, s scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.params import Train


class Head(nn.Module):
    """Class centres and the part that all heads share.

    Args:
        embedding: d.
        classes: c.
        margin: m.
        scale: s.
    """

    eps = 1e-6  # keeps the gradient of arccos finite

    def __init__(self, embedding: int, classes: int, margin: float, scale: float) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(embedding, classes).normal_(0, 0.01))
        self.m, self.s = margin, scale

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with and cosines without the margin.

        Args:
            embeddings: [n, d] float32, raw.
            labels: [n] int64.

        Returns:
            Scaled logits [n, c], and cosines [n, c] (detached) for the accuracy.
        """
        norms = embeddings.norm(dim=1)
        cosines = F.normalize(embeddings) @ F.normalize(self.kernel, dim=0)
        cosines = cosines.clamp(-1 + self.eps, 1 - self.eps)
        rows = torch.arange(len(labels), device=labels.device)
        logits = cosines.clone()
        logits[rows, labels] = self.with_margin(cosines[rows, labels], norms.detach())
        return self.s * logits, cosines.detach()

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Cosines [n] to the own centres, given the embeddings' norms [n], less the margin."""
        raise NotImplementedError


class CosFace(Head):
    """cos θ - m; insightface's `CombinedMarginLoss` with (1, 0, m)."""

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Additive margin."""
        return cosines - self.m


class ArcFace(Head):
    """cos(θ + m); insightface's `CombinedMarginLoss` with (1, m, 0).

    The loss is the official one. Its gradient is the formula's, while the official code leaves arccos and cos out of
    the backward pass (`no_grad`).
    """

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Angular margin."""
        return (cosines.arccos() + self.m).cos()


class AdaFace(Head):
    """cos(θ - m z) - (m + m z), with z = clip(h (norm - μ) / (σ + eps), -1, 1).

    μ and σ are running means of the norms' mean and (unbiased) deviation, updated by each batch before it uses them:
    μ <- t_alpha mean + (1 - t_alpha) μ. They start at 20 and 100, so z is about 0, and the head is CosFace, for
    the first 3 / t_alpha batches or so. A batch of one image has no deviation and leaves σ as it is.

    Args:
        embedding, classes, margin, scale: as in `Head`.
        h: concentration.
        t_alpha: weight of the newest batch; the paper's 0.01, while the official class defaults to 1.0.
    """

    eps = 1e-3
    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        embedding: int,
        classes: int,
        margin: float = 0.4,
        scale: float = 64,
        h: float = 0.333,
        t_alpha: float = 0.01,
    ) -> None:
        super().__init__(embedding, classes, margin, scale)
        with torch.no_grad():  # unit columns, uniform before they are scaled
            self.kernel.copy_(F.normalize(self.kernel.uniform_(-1, 1), dim=0))
        self.h, self.t_alpha = h, t_alpha
        self.register_buffer("batch_mean", torch.full((1,), 20.0))
        self.register_buffer("batch_std", torch.full((1,), 100.0))

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Margin by quality."""
        norms = norms.clamp(1e-3, 100)
        self.batch_mean.lerp_(norms.mean(), self.t_alpha)
        if len(norms) > 1:
            self.batch_std.lerp_(norms.std(), self.t_alpha)
        z = ((norms - self.batch_mean) / (self.batch_std + self.eps) * self.h).clamp(-1, 1)
        angles = (cosines.arccos() - self.m * z).clamp(self.eps, math.pi - self.eps)
        return angles.cos() - (self.m + self.m * z)


def create_head(train: Train, embedding: int, classes: int) -> Head:
    """The head that `train.head` names."""
    if train.head == "adaface":
        return AdaFace(embedding, classes, train.margin, train.scale, train.h, train.t_alpha)
    return {"arcface": ArcFace, "cosface": CosFace}[train.head](embedding, classes, train.margin, train.scale)
