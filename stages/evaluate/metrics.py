"""Verification metrics of scored pairs, exact with ties: ROC, AUC, EER and TAR at FAR.

A pair is accepted where its score, a similarity, is at least the threshold. FAR is the
share of impostor pairs accepted, TAR that of genuine pairs. Everything is derived from one curve of integer counts.

Notation: n pairs, k points of the curve, one per distinct score and one before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stages.evaluate.benchmarks import ProtocolError


@dataclass(frozen=True)
class Roc:
    """The whole curve, from accepting nothing to accepting everything.

    Attributes:
        thresholds: [k] float64, falling, the first inf.
        false_accepts, true_accepts: [k] int64, impostor and genuine pairs that score at least the threshold.
    """

    thresholds: np.ndarray
    false_accepts: np.ndarray
    true_accepts: np.ndarray

    @property
    def impostors(self) -> int:
        """Number of impostor pairs."""
        return int(self.false_accepts[-1])

    @property
    def genuine(self) -> int:
        """Number of genuine pairs."""
        return int(self.true_accepts[-1])

    @cached_property
    def far(self) -> np.ndarray:
        """[k] float64 in [0, 1]; nan where there are no impostor pairs."""
        return self.false_accepts / (self.impostors or np.nan)

    @cached_property
    def tar(self) -> np.ndarray:
        """[k] float64 in [0, 1]; nan where there are no genuine pairs."""
        return self.true_accepts / (self.genuine or np.nan)

    def auc(self) -> float:
        """Area under the curve: the chance that a genuine pair beats an impostor one, a tie counting half."""
        if not (self.impostors and self.genuine):
            return float("nan")
        heights = self.true_accepts[1:] + self.true_accepts[:-1]
        return int(np.diff(self.false_accepts) @ heights) / (2 * self.impostors * self.genuine)

    def eer(self) -> float:
        """Error rate where FAR and 1 - TAR meet, on the straight line between the two points around it."""
        if not (self.impostors and self.genuine):
            return float("nan")
        gap = self.far + self.tar - 1  # rises from -1 to 1
        after = int(np.argmax(gap >= 0))
        before = after - 1
        share = -gap[before] / (gap[after] - gap[before])
        return float(self.far[before] + share * (self.far[after] - self.far[before]))

    def tar_at_far(self, far: float) -> tuple[float, float]:
        """The greatest TAR whose FAR is not above `far`, and its threshold."""
        if not self.impostors:
            return float("nan"), float("nan")
        point = int(np.searchsorted(self.far, far, side="right")) - 1
        return float(self.tar[point]), float(self.thresholds[point])

    def tar_near_far(self, far: float) -> tuple[float, float]:
        """TAR at the point whose FAR is nearest to `far`, as the IJB scripts read it off, and its threshold.

        The points are those that scikit-learn's `roc_curve` keeps (`corners`); of equally near ones the one with the
        larger FAR is taken, and at one FAR the one with the larger TAR. Unlike `tar_at_far` it may accept more than
        `far`. Source: insightface eval_ijbc.py (`flipud`, then the first minimum); CVLface's ijbbc/evaluate.py and
        AdaFace's validate_IJB_BC.py read it off in the same way.
        """
        if not self.impostors:
            return float("nan"), float("nan")
        corners = self.corners[::-1]
        point = corners[np.argmin(np.abs(self.far[corners] - far))]
        return float(self.tar[point]), float(self.thresholds[point])

    @cached_property
    def corners(self) -> np.ndarray:
        """Indices [m] of the points that scikit-learn's `roc_curve` keeps: no point between two equal steps."""
        if len(self.thresholds) <= 3:
            return np.arange(len(self.thresholds))
        bend = (np.diff(self.false_accepts[1:], 2) != 0) | (np.diff(self.true_accepts[1:], 2) != 0)
        return np.flatnonzero(np.r_[True, True, bend, True])


def roc(scores: np.ndarray, same: np.ndarray) -> Roc:
    """Count the accepted pairs at every distinct score.

    Args:
        scores: [n] similarities.
        same: [n] bool, True for a genuine pair.

    Raises:
        ValueError: arrays of different length.
        ProtocolError: no pairs, or a score that is not finite.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and labels {same.shape}: two equally long vectors were expected")
    if not len(scores):
        raise ProtocolError("no pairs")
    if not np.isfinite(scores).all():
        raise ProtocolError(f"score {int(np.argmin(np.isfinite(scores)))} is not finite")
    rising = np.sort(scores)
    first = np.flatnonzero(np.r_[True, rising[1:] != rising[:-1]])[::-1]
    thresholds = rising[first]
    true_accepts = np.count_nonzero(same) - np.searchsorted(np.sort(scores[same]), thresholds, side="left")
    false_accepts = len(scores) - first - true_accepts
    return Roc(np.r_[np.inf, thresholds], np.r_[0, false_accepts], np.r_[0, true_accepts])
