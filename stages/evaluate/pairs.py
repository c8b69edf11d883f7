"""Verification of labelled pairs: the accuracy over folds of LFW, CFP-FP, CPLFW, CALFW, AgeDB-30 and RFW.

A pair is accepted where the squared distance of its unit vectors is less than the threshold. The threshold of a fold is
the one that is best on the other folds, the first of np.arange(0, 4, 0.01) where several are; the accuracy of the fold
is measured with it; the benchmark's number is the mean over the folds, with the standard deviation at ddof 0. The folds
are not shuffled, so the order of the pairs matters. This is the rule of insightface (eval/verification.py) and of
AdaFace (evaluate_utils.py) alike.

A fold's counts at all thresholds are one histogram and one cumulative sum.

Notation: n pairs, d dimensions, k folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.evaluate.benchmarks import ProtocolError

GRID = np.arange(0, 4, 0.01)
FINE = np.arange(0, 4, 0.001)  # of the validation rate


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over folds.

    Attributes:
        folds: [k] float64, accuracy of each test fold in [0, 1].
        thresholds: [k] float64, the threshold of each fold, a squared distance.
        fpr, tpr: [400] float64, share of the impostor and of the genuine pairs that are accepted at each threshold of
            `GRID`, mean over the test folds; a fold without such pairs counts as 0.
    """

    folds: np.ndarray
    thresholds: np.ndarray
    fpr: np.ndarray
    tpr: np.ndarray

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
        ProtocolError: an embedding is not finite.
    """
    fused = np.sum(views, axis=0, dtype=np.float64)
    squared = np.einsum("nd,nd->n", fused, fused)
    if not np.isfinite(squared).all():
        broken = int(np.argmin(np.isfinite(squared)))
        raise ProtocolError(f"the embedding of image {broken} is not finite: the network is broken or its input is")
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


def accuracy(left: np.ndarray, right: np.ndarray, same: np.ndarray, folds: int = 10) -> Accuracy:
    """Accuracy over folds of pairs of unit vectors.

    Args:
        left: [n, d] unit vectors, the first image of each pair.
        right: [n, d] unit vectors, the second.
        same: [n] bool, True for a genuine pair.
        folds: of consecutive pairs; 1 chooses the threshold on the pairs it is measured on, as insightface's LFold.

    Raises:
        ValueError: shapes that do not fit.
        ProtocolError: fewer pairs than folds, or a score that is not finite.
    """
    scores, same, fold = _scored(left, right, same, folds)
    crossing = np.searchsorted(GRID, scores, side="right")  # the first threshold above the distance
    bins = len(GRID) + 1
    counts = np.bincount((fold * 2 + same) * bins + crossing, minlength=folds * 2 * bins).reshape(folds, 2, bins)
    accepted = counts.cumsum(axis=2)[..., :-1]
    totals = counts.sum(axis=2, keepdims=True)
    correct = accepted[:, 1] + (totals - accepted)[:, 0]

    train = correct.sum(axis=0) - correct if folds > 1 else correct
    best = train.argmax(axis=1)
    fpr, tpr = (accepted / np.maximum(totals, 1)).mean(axis=0)
    return Accuracy(correct[np.arange(folds), best] / totals.sum(axis=(1, 2)), GRID[best], fpr, tpr)


def validation(left: np.ndarray, right: np.ndarray, same: np.ndarray, folds: int, far: float) -> float | None:
    """insightface's VAL@FAR: the share of the genuine pairs accepted at the threshold that has this FAR on other folds.

    The threshold lies on the straight line between the last of np.arange(0, 4, 0.001) whose FAR on the other folds is
    not above `far` and the next; 0 where none reaches `far`. insightface asks SciPy for that line, which refuses
    thresholds of equal FAR since 1.10.

    Args:
        left, right, same, folds: as of `accuracy`.
        far: in ]0, 1[.

    Returns:
        Mean over the folds, in [0, 1]; None where the other folds have fewer than 1 / far impostor pairs, or a fold has
        no genuine pair.
    """
    scores, same, fold = _scored(left, right, same, folds)
    rates = []
    for number in range(folds):
        impostors = np.sort(scores[~same & ((fold != number) | (folds == 1))])
        genuine = scores[same & (fold == number)]
        if far * len(impostors) < 1 or not len(genuine):
            return None
        fars = np.searchsorted(impostors, FINE, side="left") / len(impostors)
        threshold = np.interp(far, fars, FINE) if fars[-1] >= far else 0.0
        rates.append(np.mean(genuine < threshold))
    return float(np.mean(rates))


def _scored(
    left: np.ndarray, right: np.ndarray, same: np.ndarray, folds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared distance, label and fold of each pair."""
    pairs = len(left)
    if not pairs == len(right) == len(same):
        raise ValueError(f"{pairs} and {len(right)} embeddings, {len(same)} labels: equal numbers were expected")
    if not 1 <= folds <= pairs:
        raise ProtocolError(f"{pairs} pairs in {folds} folds: at least one pair a fold is needed")
    scores = distances(left, right)
    if not np.isfinite(scores).all():
        raise ProtocolError(f"the score of pair {int(np.argmin(np.isfinite(scores)))} is not finite")
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1  # as scikit-learn's KFold
    return scores, np.asarray(same, bool), np.repeat(np.arange(folds), sizes)
