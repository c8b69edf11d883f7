"""Accuracy over folds against loops over thresholds and folds, as the official scripts write them."""

import numpy as np
import pytest
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from stages.evaluate.benchmarks import ProtocolError
from stages.evaluate.pairs import GRID, accuracy, distances, fuse, validation


def by_loops(left, right, same, folds):
    score = np.sum(np.square(left - right), 1)
    decide = np.less
    rows = np.arange(len(same))
    splits = KFold(folds, shuffle=False).split(rows) if folds > 1 else [(rows, rows)]
    accuracies, thresholds = [], []
    for train, test in splits:
        on_train = [np.mean(decide(score[train], threshold) == same[train]) for threshold in GRID]
        thresholds.append(GRID[int(np.argmax(on_train))])
        accuracies.append(np.mean(decide(score[test], thresholds[-1]) == same[test]))
    return accuracies, thresholds


def unit_pairs(seed, pairs, dimensions=16, noise=0.7):
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(pairs, dimensions))
    same = rng.random(pairs) < 0.5
    right = np.where(same[:, None], left + noise * rng.normal(size=left.shape), rng.normal(size=left.shape))
    return normalize(left), normalize(right), same


@pytest.mark.parametrize(("pairs", "folds"), [(600, 10), (603, 10), (10, 10), (11, 10), (57, 3), (40, 1), (1, 1)])
def test_accuracy_equals_the_loops(pairs, folds):
    left, right, same = unit_pairs(pairs, pairs)
    found = accuracy(left, right, same, folds)
    accuracies, thresholds = by_loops(left, right, same, folds)
    np.testing.assert_allclose(found.folds, accuracies, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.thresholds, thresholds)
    assert found.mean == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert found.std == pytest.approx(np.std(accuracies), abs=1e-12)


def test_scores_on_the_grid_and_duplicates():
    # unit vectors of the plane whose distances and cosines are 0, 0.5, 1, ...: ties with thresholds and each other
    cosines = np.tile([1.0, 0.75, 0.5, 0.25, 0.0, -0.5, -1.0], 20)
    left = np.tile([1.0, 0.0], (len(cosines), 1))
    right = np.stack([cosines, np.sqrt(1 - cosines**2)], 1)
    same = np.random.default_rng(3).random(len(cosines)) < (cosines + 1) / 2
    found = accuracy(left, right, same, 7)
    accuracies, thresholds = by_loops(left, right, same, 7)
    np.testing.assert_array_equal(found.thresholds, thresholds)
    np.testing.assert_allclose(found.folds, accuracies, rtol=0, atol=1e-12)


def test_a_distance_equal_to_the_threshold_is_rejected_and_the_first_best_is_taken():
    left = np.array([[1.0, 0], [1, 0]])
    right = np.array([[0, 1.0], [-1, 0]])  # squared distances 2 and 4
    found = accuracy(left, right, np.array([True, False]), folds=1)
    assert found.folds[0] == 1
    assert found.thresholds[0] == GRID[GRID > 2][0]


def splits(n, folds):
    rows = np.arange(n)
    return KFold(folds, shuffle=False).split(rows) if folds > 1 else [(rows, rows)]


@pytest.mark.parametrize(("pairs", "folds"), [(600, 10), (57, 3), (40, 1)])
def test_the_curve_is_the_mean_over_the_test_folds(pairs, folds):
    left, right, same = unit_pairs(pairs, pairs)
    found = accuracy(left, right, same, folds)
    score = np.sum(np.square(left - right), 1)
    for rates, chosen in ((found.tpr, same), (found.fpr, ~same)):
        by_fold = [
            [np.sum(score[test][chosen[test]] < threshold) / np.sum(chosen[test]) for threshold in GRID[::40]]
            for _, test in splits(pairs, folds)
        ]
        np.testing.assert_allclose(rates[::40], np.mean(by_fold, axis=0), atol=1e-12)


@pytest.mark.parametrize(("folds", "far"), [(10, 0.01), (10, 0.05), (3, 0.2), (1, 0.02)])
def test_the_validation_rate_is_read_off_at_a_far_of_the_other_folds(folds, far):
    left, right, same = unit_pairs(3, 900, noise=1.2)
    score = np.sum(np.square(left - right), 1)
    rates = []
    for train, test in splits(900, folds):
        grid = np.arange(0, 4, 0.001)
        fars = [np.mean(score[train][~same[train]] < threshold) for threshold in grid]
        last = max(i for i, rate in enumerate(fars) if rate <= far)
        share = (far - fars[last]) / (fars[last + 1] - fars[last])
        threshold = grid[last] + share * (grid[last + 1] - grid[last])
        rates.append(np.mean(score[test][same[test]] < threshold))
    assert validation(left, right, same, folds, far) == pytest.approx(np.mean(rates), abs=1e-12)


def test_a_validation_rate_needs_an_impostor_pair_in_the_other_folds_and_genuine_ones_in_each():
    left, right, same = unit_pairs(5, 200)
    impostors = (~same).sum() - max((~same[test]).sum() for _, test in splits(200, 10))
    assert validation(left, right, same, 10, 1.01 / impostors) is not None
    assert validation(left, right, same, 10, 0.99 / impostors) is None
    assert validation(left, right, np.arange(200) >= 20, 10, 0.5) is None
    alike = np.tile([1.0, 0.0], (20, 1))  # no threshold of the grid lets so few impostors in
    assert validation(alike, -alike, np.arange(20) % 2 == 0, 2, 0.5) == 0


@pytest.mark.parametrize("label", [True, False])
def test_pairs_of_one_kind(label):
    left, right, _ = unit_pairs(5, 50)
    same = np.full(50, label)
    found = accuracy(left, right, same, 5)
    np.testing.assert_allclose(found.folds, by_loops(left, right, same, 5)[0], rtol=0, atol=1e-12)


def test_the_order_of_the_pairs_matters():
    left, right, same = unit_pairs(7, 200, noise=1.5)
    order = np.argsort(~same, kind="stable")
    shuffled = accuracy(left[order], right[order], same[order])
    assert not np.array_equal(shuffled.folds, accuracy(left, right, same).folds)


def test_distances_have_the_bits_of_the_official_expression():
    left, right, _ = unit_pairs(9, 1000, dimensions=512)
    np.testing.assert_array_equal(distances(left, right), np.sum(np.square(left - right), 1))


def test_views_are_added_before_they_are_normalised():
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, 5, 8)).astype(np.float32)
    views[:, 3] = 0
    summed = np.array([[float(views[0, n, d]) + float(views[1, n, d]) for d in range(8)] for n in range(5)])
    np.testing.assert_allclose(fuse(views), normalize(summed), rtol=0, atol=1e-12)
    assert not fuse(views)[3].any()


def test_broken_input():
    left, right, same = unit_pairs(0, 6)
    with pytest.raises(ProtocolError, match="6 pairs in 10 folds"):
        accuracy(left, right, same, 10)
    with pytest.raises(ValueError, match="6 and 6 embeddings, 5 labels"):
        accuracy(left, right, same[:5], 2)
    left[4, 0] = np.nan
    with pytest.raises(ProtocolError, match="pair 4 is not finite"):
        accuracy(left, right, same, 2)
    with pytest.raises(ProtocolError, match="image 4 is not finite"):
        fuse(left[None])
