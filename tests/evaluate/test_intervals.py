"""Intervals against loops, published numbers and their own promise: the truth lies within in 95 % of the draws."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import beta, binom, norm
from scipy.stats import binomtest as binomial_test

from stages.evaluate import intervals
from stages.evaluate.metrics import Roc, roc


def drawn(rng: np.random.Generator, m: int, n: int, distance: float, digits: int | None = None) -> Roc:
    scores = np.r_[rng.normal(distance, 1, m), rng.normal(0, 1, n)]
    return roc(scores if digits is None else scores.round(digits), np.arange(m + n) < m)


@pytest.mark.parametrize(("won", "of"), [(0, 10), (3, 10), (267, 300), (50, 50)])
def test_share_is_wilsons(won, of):
    theirs = binomial_test(won, of).proportion_ci(method="wilson")
    np.testing.assert_allclose(intervals.share(won / of, of), theirs, atol=1e-12)


@pytest.mark.parametrize("digits", [None, 0])
def test_auc_is_delongs_by_loops_over_the_pairs(digits):
    rng = np.random.default_rng(1)
    genuine, impostor = rng.normal(1, 1, 40), rng.normal(0, 2, 60)
    if digits is not None:
        genuine, impostor = genuine.round(digits), impostor.round(digits)
    wins = np.array([[(g > i) + 0.5 * (g == i) for i in impostor] for g in genuine])
    variance = np.var(wins.mean(axis=1), ddof=1) / 40 + np.var(wins.mean(axis=0), ddof=1) / 60
    area = wins.mean()
    logit = np.log(area / (1 - area)) + np.array([-1, 1]) * norm.isf(0.025) * np.sqrt(variance) / (area * (1 - area))
    found = intervals.auc(roc(np.r_[genuine, impostor], np.arange(100) < 40))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit)), atol=1e-12)


def test_auc_of_parted_scores_keeps_a_width():
    curve = roc(np.arange(30.0), np.arange(30) >= 10)
    assert intervals.auc(curve) == intervals.share(1.0, 10)
    assert intervals.auc(roc(np.arange(30.0), np.arange(30) < 10)) == intervals.share(0.0, 10)


def test_tar_bootstraps_as_drawing_the_pairs_does():
    rng = np.random.default_rng(2)
    genuine, impostor = np.sort(rng.normal(2, 1, 80)), np.sort(rng.normal(0, 1, 120))
    curve = roc(np.r_[genuine, impostor], np.arange(200) < 80)
    rate, threshold = curve.tar_at_far(0.05)
    rates = []
    for _ in range(4000):
        again = np.sort(rng.choice(impostor, 120))
        rates.append(np.mean(rng.choice(genuine, 80) > again[120 - 6 - 1]))
    expected = np.quantile(rates, [0.025, 0.975])
    wilson = binomial_test(round(80 * rate), 80).proportion_ci(method="wilson")
    assert expected[0] < wilson.low  # the threshold's part counts here
    found = intervals.tar(curve, threshold)
    np.testing.assert_allclose(found, (min(expected[0], wilson.low), max(expected[1], wilson.high)), atol=0.02)


def test_tar_of_few_pairs_and_of_none_accepted():
    parted = roc(np.arange(20.0), np.arange(20) >= 10)
    low, high = intervals.tar(parted, parted.tar_at_far(0.1)[1])
    assert low < intervals.share(1.0, 10)[0] + 1e-9
    assert high == 1.0
    first_is_false = roc(np.array([3.0, 2, 1]), np.array([False, True, True]))
    assert first_is_false.tar_at_far(0.5) == (0.0, np.inf)
    assert intervals.tar(first_is_false, np.inf) == intervals.share(0.0, 2)
    assert intervals.tar(first_is_false, 1.0) == intervals.share(1.0, 2)  # all accepted: no threshold to doubt


@pytest.mark.parametrize(("m", "far", "distance"), [(50, 0.1, 2.0), (50, 0.1, 3.5), (150, 0.1, 2.0), (300, 0.01, 2.5)])
def test_the_truth_lies_within(m, far, distance):
    rng = np.random.default_rng(3)
    tar, area = norm.cdf(distance - norm.isf(far)), norm.cdf(distance / np.sqrt(2))
    within = []
    for _ in range(200):
        curve = drawn(rng, m, m, distance)
        low, high = intervals.tar(curve, curve.tar_at_far(far)[1])
        below, above = intervals.auc(curve)
        within.append((low <= tar <= high, below <= area <= above))
    held = np.sum(within, axis=0)
    assert (held >= binom.ppf(1e-4, 200, 0.92)).all(), held  # far below 95 % a method is wrong


def test_mean_and_gap_hold_what_they_promise():
    rng = np.random.default_rng(4)
    truth = np.array([0.85, 0.9, 0.9, 0.97])
    held = np.zeros(2)
    for _ in range(300):
        shares = {name: (rng.binomial(100, p) / 100, 100) for name, p in zip("abcd", truth, strict=True)}
        (low, high), (least, most) = intervals.mean(shares), intervals.gap(shares)
        held += low <= truth.mean() <= high, least <= np.ptp(truth) <= most
    assert (held >= binom.ppf(1e-4, 300, 0.94)).all(), held


def test_chance_alone_makes_a_gap_whose_interval_holds_zero():
    rng = np.random.default_rng(5)
    found = [intervals.gap({name: (rng.binomial(100, 0.85) / 100, 100) for name in "abcd"}) for _ in range(300)]
    missed = sum(low > 0 for low, _ in found)
    assert missed <= binom.ppf(1 - 1e-4, 300, 0.06)


def test_gap_by_hand():
    shares = {"a": (0.9, 100), "b": (0.7, 50), "c": (0.8, 200)}
    q = 3.3145  # of three means and infinitely many degrees of freedom, as tables of Tukey's have it
    ends = []
    for (p, n), (r, k) in combinations(shares.values(), 2):
        variances = [x * (1 - x) / t for x, t in (((p * n + 2) / (n + 4), n + 4), ((r * k + 2) / (k + 4), k + 4))]
        half = q * np.sqrt(sum(variances) / 2)
        ends.append((abs(p - r) - half, abs(p - r) + half))
    expected = max(0, *(low for low, _ in ends)), max(high for _, high in ends)
    np.testing.assert_allclose(intervals.gap(shares), expected, atol=1e-4)
    assert intervals.gap({"a": (0.9, 100)}) == (0.0, 0.0)


def test_mean_of_one_share_is_its_own_and_of_perfect_ones_keeps_a_width():
    np.testing.assert_allclose(intervals.mean({"a": (0.9, 50)}), intervals.share(0.9, 50))
    low, high = intervals.mean({"a": (1.0, 50), "b": (1.0, 50)})
    assert low < 1
    assert high == 1


def test_a_rank_of_the_bootstrap_is_an_order_statistic():
    """The (k+1)-th greatest of n drawn with replacement has the rank ceil(n u), u ~ Beta(k + 1, n - k): exactly."""
    n, k = 12, 2
    ranks = np.arange(1, n + 1)
    by_beta = np.diff(beta.cdf(np.r_[0, ranks] / n, k + 1, n - k))
    at_most = binom.sf(k, n, np.r_[0, ranks] / n)  # more than k draws among the first `rank`
    np.testing.assert_allclose(by_beta, np.diff(at_most), atol=1e-12)
