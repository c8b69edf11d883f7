"""95 % confidence intervals of the numbers of scored pairs: how far another draw of as many pairs may take them.

Pairs are taken as independent of each other. Where an image or a person stands in many pairs they are not, and the
interval is then too narrow; a seed of training is no part of it either.

Notation: m genuine and n impostor pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import exp, isfinite, log, sqrt

import numpy as np

from stages.evaluate.metrics import Roc

LEVEL = 0.95
Z = 1.959963984540054  # of the normal distribution, two-sided
DRAWS = 2000  # of the bootstrap

Interval = tuple[float, float]


def share(share: float, of: int) -> Interval:
    """Of a share in [0, 1] of so many trials: Wilson, 1927, which keeps within [0, 1] and a width at both ends."""
    centre = (share + Z**2 / (2 * of)) / (1 + Z**2 / of)
    half = Z / (1 + Z**2 / of) * sqrt(share * (1 - share) / of + (Z / (2 * of)) ** 2)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def auc(curve: Roc) -> Interval:
    """Of the area under the curve: DeLong et al., 1988, on the logit's scale.

    Where the scores part without error (or wholly the wrong way round) that variance is zero. Then it is Wilson's of
    min(m, n) trials that all came out alike: as many independent comparisons of a genuine with an impostor pair.
    """
    area, m, n = curve.auc(), curve.genuine, curve.impostors
    if area in (0.0, 1.0) or min(m, n) < 2:
        return share(area, min(m, n))
    genuine, impostors = np.diff(curve.true_accepts), np.diff(curve.false_accepts)  # at each score, from the highest
    beaten = (n - curve.false_accepts[1:] + impostors / 2) / n  # share of the impostors that a genuine pair beats
    beating = (curve.true_accepts[1:] - genuine / 2) / m  # share of the genuine pairs that beat an impostor
    variance = genuine @ (beaten - area) ** 2 / (m - 1) / m + impostors @ (beating - area) ** 2 / (n - 1) / n
    centre, half = log(area / (1 - area)), Z * sqrt(variance) / (area * (1 - area))
    low, high = (1 / (1 + exp(-min(max(x, -700.0), 700.0))) for x in (centre - half, centre + half))
    return low, high


def tar(curve: Roc, threshold: float) -> Interval:
    """Of the share of genuine pairs accepted at a threshold that was chosen by how many impostors it accepts.

    The bootstrap's percentiles, joined with Wilson's interval: the bootstrap has the threshold's own uncertainty, the
    larger part where few impostors are accepted, and no width where all genuine pairs are. Pairs need not be drawn: of
    n impostors drawn again, the one that comes first below the threshold, the (k+1)-th greatest for k accepted, has the
    rank ceil(n u) among the n, u ~ Beta(k + 1, n - k), and the accepted genuine pairs are a binomial number.
    """
    m, n = curve.genuine, curve.impostors
    point = int(np.searchsorted(-curve.thresholds, -threshold))
    accepted = int(curve.false_accepts[point])
    low, high = share(float(curve.tar[point]), m)
    if accepted == n:
        return low, high
    rng = np.random.default_rng(0)
    rank = np.ceil(n * rng.beta(accepted + 1, n - accepted, DRAWS))
    rate = curve.tar[np.searchsorted(curve.false_accepts, rank) - 1]
    drawn = rng.binomial(m, rate) / m
    first, last = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return min(low, float(first)), max(high, float(last))


def mean(accuracies: Mapping[str, tuple[float, int]]) -> Interval:
    """Of the mean of independent shares (share, trials): their Wilson limits' distances, summed as squares.

    Zou and Donner, 2008 (MOVER).
    """
    limits = {name: share(*one) for name, one in accuracies.items()}
    centre = float(np.mean([one for one, _ in accuracies.values()]))
    below = sqrt(sum((accuracies[name][0] - low) ** 2 for name, (low, _) in limits.items()))
    above = sqrt(sum((high - accuracies[name][0]) ** 2 for name, (_, high) in limits.items()))
    return centre - below / len(limits), centre + above / len(limits)


def gap(accuracies: Mapping[str, tuple[float, int]]) -> Interval:
    """Of the largest difference between independent shares (share, trials), which chance alone makes larger than zero.

    From the simultaneous intervals of all differences (Tukey and Kramer), with two successes and two failures added to
    each share's variance (Agresti and Coull): the largest difference is at least the largest of their lower ends, and
    at most the largest of their upper ends.
    """
    from scipy.stats import studentized_range  # here: it takes a second to load

    if len(accuracies) < 2:
        return 0.0, 0.0
    added = [(p, (p * n + 2) / (n + 4), n + 4) for p, n in accuracies.values()]
    shares = [(p, q * (1 - q) / n) for p, q, n in added]
    width = studentized_range.ppf(LEVEL, len(shares), np.inf) / sqrt(2)
    assert isfinite(width)
    ends = [(abs(p - q), width * sqrt(v + w)) for (p, v), (q, w) in combinations(shares, 2)]
    return max(0.0, *(far - half for far, half in ends)), min(1.0, max(far + half for far, half in ends))
