"""Every number against the double loop over pairs, in float64."""

from itertools import combinations

import numpy as np
import pytest

from stages.audit.separability import Moments, apart, cosines, fdr, moments, scores


def unit(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


STARTS = np.array([0, 3, 4, 9, 11])


def by_loop(vectors):
    identity = np.repeat(np.arange(4), np.diff(STARTS))
    found = {True: [], False: []}
    for a, b in combinations(range(len(vectors)), 2):
        found[bool(identity[a] == identity[b])].append(float(vectors[a].astype(np.float64) @ vectors[b]))
    return found[True], found[False]


def test_moments_are_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr("stages.audit.separability.STEP", 4)
    vectors = unit(11, 6)
    for found, expected in zip(moments(vectors, STARTS), by_loop(vectors), strict=True):
        assert found.pairs == len(expected)
        np.testing.assert_allclose([found.mean, found.std], [np.mean(expected), np.std(expected)], atol=1e-6)


def test_scores_are_all_pairs_where_they_are_few():
    vectors = unit(11, 6)
    found, same = scores(vectors, STARTS)
    for kind, expected in zip((True, False), by_loop(vectors), strict=True):
        np.testing.assert_allclose(np.sort(found[same == kind]), np.sort(expected), atol=1e-6)


def test_scores_are_drawn_from_all_pairs_alike_where_they_are_many():
    """3 + 0 + 10 + 1 genuine pairs and 41 impostors; each is drawn as often as any other."""
    vectors = unit(11, 6)
    expected = by_loop(vectors)
    limits = (13, 40)  # below the number of each kind
    for kind, limit in zip((True, False), limits, strict=True):
        counts = np.zeros(len(expected[not kind]))
        ordered = np.sort(expected[not kind])
        for seed in range(300):
            found, same = scores(vectors, STARTS, seed, limit)
            drawn = found[same == kind]
            place = np.abs(drawn[:, None] - ordered).argmin(axis=1)
            np.testing.assert_allclose(drawn, ordered[place], atol=1e-6)
            counts += np.bincount(place, minlength=len(ordered))
            assert len(drawn) == limit
        share = counts / counts.mean()
        assert 0.7 < share.min() < share.max() < 1.3


def test_fdr_by_hand():
    assert fdr(Moments(9, 0.644, 0.1), Moments(9, 0.024, 0.125)) == pytest.approx(0.62**2 / (0.01 + 0.015625))


def test_cosines_of_rows(monkeypatch):
    monkeypatch.setattr("stages.audit.separability.STEP", 2)
    vectors = unit(5, 3)
    found = cosines(vectors, np.array([0, 4, 2]), np.array([1, 4, 0]))
    np.testing.assert_allclose(found, [vectors[0] @ vectors[1], 1, vectors[2] @ vectors[0]], atol=1e-6)


def test_near_duplicates_are_counted_once():
    """In the plane: 0, 0.1 and 0.2 rad are a chain, 1.5 and 1.55 a pair, 3 stands alone; near is below 0.15 rad."""
    angles = np.array([0.0, 1.5, 0.1, 3.0, 0.2, 1.55])
    prototypes = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    left, pairs, largest = apart(prototypes, float(np.cos(0.15)))
    assert (left, pairs) == (4, 3)  # 0 drops 0.1, which then drops nobody: 0, 0.2, 1.5 and 3 are left
    assert largest == pytest.approx(np.cos(0.05), abs=1e-6)
    assert apart(prototypes, 0.9999)[:2] == (6, 0)
    assert apart(prototypes[:1], 0.5)[:2] == (1, 0)
