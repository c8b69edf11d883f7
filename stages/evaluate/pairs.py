"""Verification of labelled pairs: the accuracy over folds of LFW, CFP-FP, CPLFW, CALFW, AgeDB-30 and RFW.

The threshold of a fold is the one that is best on the other folds, from a fixed grid; the accuracy of the fold is
measured with it; the benchmark's number is the mean over the folds, with the standard deviation at ddof 0.

Two variants, which differ in the score and on which side of the threshold a tie falls:

- `insightface` (eval/verification.py): squared distance of unit vectors, accepted where distance < threshold;
- `adaface` (evaluate_utils.py): cosine, accepted where cosine > threshold, on the same grid.

Both take the first best of np.arange(0, 4, 0.01) and unshuffled folds, so the order of the pairs matters.
A fold's counts at all thresholds are one histogram and one cumulative sum.

Notation: n pairs, d dimensions, k folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VARIANTS = ("insightface", "adaface")
GRID = np.arange(0, 4, 0.01)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over folds.

    Attributes:
        folds: [k] float64, accuracy of each test fold in [0, 1].
        thresholds: [k] float64, the threshold of each fold, in the variant's score.
    """

    folds: np.ndarray
    thresholds: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.folds))

    @property
    def std(self) -> float:
        """Standard deviation over the folds, ddof 0."""
        return float(np.std(self.folds))


def fuse(views: np.ndarray) -> np.ndarray:
    """Sum the views of each image and scale the sum to unit length: [v, n, d] -> [n, d] float64.

    The views are the raw embeddings of the image and of its mirror image; a zero vector stays zero, as in
    scikit-learn's `normalize`.

    Raises:
        ValueError: an embedding is not finite.
    """
    fused = np.sum(views, axis=0, dtype=np.float64)
    squared = np.einsum("nd,nd->n", fused, fused)
    if not np.isfinite(squared).all():
        broken = int(np.argmin(np.isfinite(squared)))
        raise ValueError(f"the embedding of image {broken} is not finite: the network is broken or its input is")
    norms = np.sqrt(squared)
    norms[norms == 0] = 1
    fused /= norms[:, None]
    return fused


def distances(left: np.ndarray, right: np.ndarray, block: int = 256) -> np.ndarray:
    """Squared Euclidean distance of each row of `left` [n, d] to the same row of `right`: [n].

    Summed in the official order of operations; in blocks that stay in the cache.
    """
    result = np.empty(len(left), np.result_type(left, right))
    for begin in range(0, len(left), block):
        rows = slice(begin, begin + block)
        difference = left[rows] - right[rows]
        result[rows] = np.square(difference, out=difference).sum(axis=1)
    return result


def accuracy(
    left: np.ndarray, right: np.ndarray, same: np.ndarray, folds: int = 10, variant: str = "insightface"
) -> Accuracy:
    """Accuracy over folds of pairs of unit vectors.

    Args:
        left: [n, d] unit vectors, the first image of each pair.
        right: [n, d] unit vectors, the second.
        same: [n] bool, True for a genuine pair.
        folds: of consecutive pairs; 1 chooses the threshold on the pairs it is measured on, as insightface's LFold.
        variant: one of `VARIANTS`.

    Raises:
        ValueError: shapes that do not fit, fewer pairs than folds, an unknown variant, a score that is not finite.
    """
    if not len(left) == len(right) == len(same):
        raise ValueError(f"{len(left)} and {len(right)} embeddings, {len(same)} labels: equal numbers were expected")
    if variant == "insightface":
        scores = distances(left, right)
        crossing = np.searchsorted(GRID, scores, side="right")  # the first threshold above the distance
    elif variant == "adaface":
        scores = np.einsum("nd,nd->n", left, right)
        crossing = np.searchsorted(GRID, scores, side="left")  # the first threshold not below the cosine
    else:
        raise ValueError(f"variant {variant!r}: one of {', '.join(VARIANTS)}")
    if not np.isfinite(scores).all():
        raise ValueError(f"the score of pair {int(np.argmin(np.isfinite(scores)))} is not finite")

    counts = _histogram(crossing, np.asarray(same, bool), folds)
    passed = counts.cumsum(axis=2)[..., :-1]  # crossed at this threshold or before it
    totals = counts.sum(axis=2, keepdims=True)
    accepted = passed if variant == "insightface" else totals - passed
    correct = accepted[:, 1] + (totals - accepted)[:, 0]

    train = correct.sum(axis=0) - correct if folds > 1 else correct
    best = train.argmax(axis=1)
    return Accuracy(correct[np.arange(folds), best] / totals.sum(axis=(1, 2)), GRID[best])


def _histogram(crossing: np.ndarray, same: np.ndarray, folds: int) -> np.ndarray:
    """[folds, 2, len(GRID) + 1] int64: impostor and genuine pairs of each fold by the threshold that they cross at."""
    pairs = len(crossing)
    if not 1 <= folds <= pairs:
        raise ValueError(f"{pairs} pairs in {folds} folds: at least one pair a fold is needed")
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1  # as scikit-learn's KFold
    fold = np.repeat(np.arange(folds), sizes)
    bins = len(GRID) + 1
    counts = np.bincount((fold * 2 + same) * bins + crossing, minlength=folds * 2 * bins)
    return counts.reshape(folds, 2, bins)
