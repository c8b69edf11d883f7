"""Accuracy over folds against loops over thresholds and folds, as the official scripts write them."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from stages.evaluate.pairs import GRID, accuracy, distances, fuse


def by_loops(left, right, same, folds, variant):
    if variant == "insightface":
        score = np.sum(np.square(left - right), 1)
        decide = np.less
    else:
        score = np.diag(cosine_similarity(left, right))
        decide = np.greater
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


@pytest.mark.parametrize("variant", ["insightface", "adaface"])
@pytest.mark.parametrize(("pairs", "folds"), [(600, 10), (603, 10), (10, 10), (11, 10), (57, 3), (40, 1), (1, 1)])
def test_accuracy_equals_the_loops(variant, pairs, folds):
    left, right, same = unit_pairs(pairs, pairs)
    found = accuracy(left, right, same, folds, variant)
    accuracies, thresholds = by_loops(left, right, same, folds, variant)
    np.testing.assert_allclose(found.folds, accuracies, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.thresholds, thresholds)
    assert found.mean == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert found.std == pytest.approx(np.std(accuracies), abs=1e-12)


@pytest.mark.parametrize("variant", ["insightface", "adaface"])
def test_scores_on_the_grid_and_duplicates(variant):
    # unit vectors of the plane whose distances and cosines are 0, 0.5, 1, ...: ties with thresholds and each other
    cosines = np.tile([1.0, 0.75, 0.5, 0.25, 0.0, -0.5, -1.0], 20)
    left = np.tile([1.0, 0.0], (len(cosines), 1))
    right = np.stack([cosines, np.sqrt(1 - cosines**2)], 1)
    same = np.random.default_rng(3).random(len(cosines)) < (cosines + 1) / 2
    found = accuracy(left, right, same, 7, variant)
    accuracies, thresholds = by_loops(left, right, same, 7, variant)
    np.testing.assert_array_equal(found.thresholds, thresholds)
    np.testing.assert_allclose(found.folds, accuracies, rtol=0, atol=1e-12)


def test_a_distance_equal_to_the_threshold_is_rejected_and_the_first_best_is_taken():
    left = np.array([[1.0, 0], [1, 0]])
    right = np.array([[0, 1.0], [-1, 0]])  # squared distances 2 and 4
    found = accuracy(left, right, np.array([True, False]), folds=1)
    assert found.folds[0] == 1
    assert found.thresholds[0] == GRID[GRID > 2][0]


@pytest.mark.parametrize("label", [True, False])
def test_pairs_of_one_kind(label):
    left, right, _ = unit_pairs(5, 50)
    same = np.full(50, label)
    found = accuracy(left, right, same, 5)
    np.testing.assert_allclose(found.folds, by_loops(left, right, same, 5, "insightface")[0], rtol=0, atol=1e-12)


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
    with pytest.raises(ValueError, match="6 pairs in 10 folds"):
        accuracy(left, right, same, 10)
    with pytest.raises(ValueError, match="6 and 6 embeddings, 5 labels"):
        accuracy(left, right, same[:5], 2)
    with pytest.raises(ValueError, match="'cosface'"):
        accuracy(left, right, same, 2, "cosface")
    left[4, 0] = np.nan
    with pytest.raises(ValueError, match="pair 4 is not finite"):
        accuracy(left, right, same, 2)
    with pytest.raises(ValueError, match="image 4 is not finite"):
        fuse(left[None])
