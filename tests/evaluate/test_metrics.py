"""The curve against scikit-learn and against loops over all thresholds."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from stages.evaluate.benchmarks import ProtocolError
from stages.evaluate.metrics import roc


def scored(rng: np.random.Generator, pairs: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    same = rng.random(pairs) < 0.3
    scores = rng.normal(size=pairs) + same
    return (np.round(scores, 1) if ties else scores), same


CASES = [scored(np.random.default_rng(seed), pairs, ties) for seed, pairs in enumerate((7, 60, 900)) for ties in (0, 1)]
CASES.append((np.zeros(6), np.array([1, 0, 0, 1, 0, 1], bool)))  # all tied
CASES.append((np.array([3.0, 2, 1, 0]), np.array([1, 1, 0, 0], bool)))  # parted


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_corners_are_the_points_of_scikit_learn(scores, same):
    far, tar, thresholds = roc_curve(same, scores)
    curve = roc(scores, same)
    np.testing.assert_array_equal(curve.far[curve.corners], far)
    np.testing.assert_array_equal(curve.tar[curve.corners], tar)
    np.testing.assert_array_equal(curve.thresholds[curve.corners], thresholds)


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_every_point_counts_the_accepted_pairs(scores, same):
    curve = roc(scores, same)
    for threshold, false, true in zip(curve.thresholds, curve.false_accepts, curve.true_accepts, strict=True):
        assert true == sum(s >= threshold for s in scores[same])
        assert false == sum(s >= threshold for s in scores[~same])


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_auc_is_the_share_of_won_comparisons(scores, same):
    wins = [1.0 if g > i else 0.5 if g == i else 0.0 for g in scores[same] for i in scores[~same]]
    assert roc(scores, same).auc() == pytest.approx(np.mean(wins), abs=1e-12)
    assert roc(scores, same).auc() == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


@pytest.mark.parametrize(("scores", "same"), CASES)
@pytest.mark.parametrize("far", [1e-3, 0.01, 0.1, 1 / 3, 0.5])
def test_tar_at_far_is_the_best_threshold_that_keeps_the_far(scores, same, far):
    best = max(
        np.mean(scores[same] >= threshold)
        for threshold in [*scores, np.inf]
        if np.mean(scores[~same] >= threshold) <= far
    )
    tar, threshold = roc(scores, same).tar_at_far(far)
    assert tar == pytest.approx(best, abs=1e-12)
    assert np.mean(scores[same] >= threshold) == tar
    assert np.mean(scores[~same] >= threshold) <= far


def test_far_of_a_whole_number_of_impostors_is_reached():
    scores, same = np.arange(20.0), np.arange(20) % 2 == 0  # impostors at 1, 3, ..., 19
    for accepted in range(1, 11):
        assert roc(scores, same).tar_at_far(accepted / 10)[0] == np.mean(scores[same] > 20 - 2 * accepted - 1)


@pytest.mark.parametrize(("scores", "same"), CASES)
@pytest.mark.parametrize("far", [1e-6, 1e-2, 0.1, 0.25])
def test_tar_near_far_reads_the_curve_as_insightface_does(scores, same, far):
    fpr, tpr, _ = roc_curve(same, scores)
    fpr, tpr = fpr[::-1], tpr[::-1]
    _, nearest = min((abs(value - far), place) for place, value in enumerate(fpr))
    assert roc(scores, same).tar_near_far(far)[0] == tpr[nearest]


def test_tar_near_far_may_accept_more_than_asked():
    scores = np.array([5, 4, 3.5, 3, 2, 1.0])
    same = np.array([0, 1, 0, 1, 1, 0], bool)
    curve = roc(scores, same)
    assert curve.tar_near_far(0.3)[0] == pytest.approx(1 / 3)  # at FAR 1/3, which is nearer than 0
    assert curve.tar_at_far(0.3)[0] == 0


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_eer_lies_where_the_error_rates_cross(scores, same):
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=False)
    grid = np.linspace(0, 1, 20001)  # positions along the drawn curve
    along = np.arange(len(fpr)) / (len(fpr) - 1)
    far, frr = np.interp(grid, along, fpr), 1 - np.interp(grid, along, tpr)
    crossing = np.argmin(np.abs(far - frr))
    assert roc(scores, same).eer() == pytest.approx(far[crossing], abs=2e-3 * len(fpr) / 20)


def test_eer_by_hand():
    # two of four impostors above one of four genuine: FAR 1/4 -> 1/2 at TAR 3/4, so they meet at 1/4
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2.0])
    same = np.array([1, 1, 0, 1, 0, 1, 0, 0], bool)
    assert roc(scores, same).eer() == pytest.approx(0.25)
    assert roc(-scores, same).eer() == pytest.approx(0.75)


def test_order_of_the_pairs_and_rising_maps_change_nothing():
    scores, same = CASES[4]
    order = np.random.default_rng(0).permutation(len(scores))
    curve, other = roc(scores, same), roc(np.exp(scores[order]), same[order])
    np.testing.assert_array_equal(curve.far, other.far)
    np.testing.assert_array_equal(curve.tar, other.tar)


def test_without_impostors_nothing_but_tar_is_known():
    curve = roc(np.arange(4.0), np.ones(4, bool))
    assert curve.tar[-1] == 1
    assert np.isnan([curve.auc(), curve.eer(), *curve.tar_at_far(0.1), *curve.tar_near_far(0.1)]).all()


@pytest.mark.parametrize(
    ("scores", "same", "error", "message"),
    [
        ([], [], ProtocolError, "no pairs"),
        ([1.0], [True, False], ValueError, "two equally long"),
        ([1, np.nan], [1, 0], ProtocolError, "score 1 "),
    ],
)
def test_broken_input(scores, same, error, message):
    with pytest.raises(error, match=message):
        roc(np.array(scores), np.array(same, bool))
