"""Margin heads: embeddings [n, d] and labels [n] -> scaled logits [n, c] for the cross-entropy.

All put a margin on the cosine between an embedding and its own class's centre, and scale all cosines by s:

- CosFace (Wang et al. 2018): cos θ - m
- ArcFace (Deng et al. 2019): cos(θ + m)
- AdaFace (Kim et al. 2022, `head.py`): cos(θ - m z) - (m + m z), z the image's quality, read off its embedding's norm
- ArcMarginProduct (SynFace's ArcFace, `metrics.py`): cos(θ + m) up to θ = π - m, and cos θ - m sin m beyond

A label of -1, an image of none of these classes, gets no margin.

Notation: n images, d dimensions, c classes, θ the angle to the own class's centre, m margin, s scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.train.knobs import Train


class Head(nn.Module):
    """Class centres and the part that all heads share.

    Args:
        embedding: d.
        classes: c.
        margin: m.
        scale: s.
        filtering: cosine above which another class's centre is left out, as it may be the same person's (insightface's
            `interclass_filtering_threshold`); 0 is off.
    """

    eps = 0.0  # cosines are clamped to 1 less this

    def __init__(self, embedding: int, classes: int, margin: float, scale: float, filtering: float = 0.0) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(embedding, classes).normal_(0, 0.01))
        self.m, self.s, self.filtering = margin, scale, filtering

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with and cosines without the margin.

        Args:
            embeddings: [n, d] float32, raw.
            labels: [n] int64; -1 for none.

        Returns:
            Scaled logits [n, c], and cosines [n, c] (detached) for the accuracy.
        """
        rows = (labels != -1).nonzero()[:, 0]
        return self.logits(embeddings, self.kernel, rows, labels[rows])

    def logits(self, embeddings: Tensor, kernel: Tensor, rows: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The same for the images `rows` [k] of the classes `own` [k], of any centres `kernel` [d, c]."""
        norms = embeddings.norm(dim=1)
        cosines = F.normalize(embeddings) @ F.normalize(kernel, dim=0)
        cosines = cosines.clamp(-1 + self.eps, 1 - self.eps)
        logits = cosines.clone()
        if self.filtering:
            alike = cosines.detach() > self.filtering
            alike[rows, own] = False
            logits = logits.masked_fill(alike, 0.0)
        self.add_margin(logits, rows, own, norms.detach())
        return self.s * logits, cosines.detach()

    def add_margin(self, logits: Tensor, rows: Tensor, own: Tensor, norms: Tensor) -> None:
        """Put the margin on the own classes' cosines, in place.

        Args:
            logits: [n, c] cosines.
            rows: [k] the images that have a class.
            own: [k] their classes.
            norms: [n] of all embeddings.
        """
        logits[rows, own] = self.with_margin(logits[rows, own], norms[rows])

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Cosines [k] to the own centres, given the embeddings' norms [k], less the margin."""
        raise NotImplementedError


class CosFace(Head):
    """cos θ - m; insightface's `CombinedMarginLoss` with (1, 0, m)."""

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Additive margin."""
        return cosines - self.m


class ArcFace(Head):
    """cos(θ + m); insightface's `CombinedMarginLoss` with (1, m, 0).

    The gradient passes the margin as if it were not there: the official code leaves arccos and cos out of the backward
    pass. So a well placed embedding (θ near 0) is not pushed by the factor sin(θ + m) / sin θ, and one beyond π - m is
    drawn to its centre, from which the formula's own gradient would drive it away (`ArcFaceExact`).
    """

    def add_margin(self, logits: Tensor, rows: Tensor, own: Tensor, norms: Tensor) -> None:
        """Angular margin, the gradient's identity."""
        with torch.no_grad():
            super().add_margin(logits, rows, own, norms)

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Angular margin."""
        return (cosines.arccos() + self.m).cos()


class ArcFaceExact(Head):
    """cos(θ + m) with the formula's own gradient: ArcFace's paper, and no released code."""

    eps = 1e-6  # keeps the gradient of arccos finite

    with_margin = ArcFace.with_margin


class ArcMarginProduct(Head):
    """SynFace's ArcFace (`lib/models/metrics.py`), with the formula's own gradient.

    Past θ = π - m, where cos(θ + m) would rise again, it is cos θ - m sin m; with `easy_margin` it is cos(θ + m) where
    cos θ > 0, and cos θ elsewhere. `kernel` is the official `weight`, transposed.

    Args:
        embedding, classes, margin, scale: as in `Head`; officially 0.5 and 30.
        easy_margin: off officially.
    """

    eps = 1e-6  # the official gradient is not a number at a cosine of 1

    def __init__(
        self, embedding: int, classes: int, margin: float = 0.5, scale: float = 30, easy_margin: bool = False
    ) -> None:
        super().__init__(embedding, classes, margin, scale)
        nn.init.xavier_uniform_(self.kernel)
        self.easy_margin = easy_margin

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Angular margin, and what stands in its place past the threshold."""
        sines = (1 - cosines**2).clamp(0, 1).sqrt()
        phi = cosines * math.cos(self.m) - sines * math.sin(self.m)
        if self.easy_margin:
            return torch.where(cosines > 0, phi, cosines)
        beyond = cosines - self.m * math.sin(math.pi - self.m)
        return torch.where(cosines > math.cos(math.pi - self.m), phi, beyond)


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

    def add_margin(self, logits: Tensor, rows: Tensor, own: Tensor, norms: Tensor) -> None:
        """Margin by quality; all images count for the statistics."""
        norms = norms.clamp(1e-3, 100)
        self.batch_mean.lerp_(norms.mean(), self.t_alpha)
        if len(norms) > 1:
            self.batch_std.lerp_(norms.std(), self.t_alpha)
        super().add_margin(logits, rows, own, norms)

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Margin by quality."""
        z = ((norms - self.batch_mean) / (self.batch_std + self.eps) * self.h).clamp(-1, 1)
        angles = (cosines.arccos() - self.m * z).clamp(self.eps, math.pi - self.eps)
        return angles.cos() - (self.m + self.m * z)


MARGINS = {"arcface": ArcFace, "arcface-exact": ArcFaceExact, "cosface": CosFace}


def create_head(train: Train, embedding: int, classes: int) -> Head:
    """The head that `train.head` names."""
    if train.head == "adaface":
        return AdaFace(embedding, classes, train.margin, train.scale, train.h, train.t_alpha)
    if train.head == "ArcMarginProduct":
        return ArcMarginProduct(embedding, classes, train.margin, train.scale, train.easy_margin)
    kind = MARGINS[train.head]
    return kind(embedding, classes, train.margin, train.scale, train.interclass_filtering_threshold)
