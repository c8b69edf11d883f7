from math import exp

import numpy as np
import pytest
from scipy.linalg import sqrtm

from stages.measures import frechet, median_distance, mmd


def test_frechet_is_the_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(200, 5)) + 1
    covariances = np.cov(a.T), np.cov(b.T)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_gaussians():
    """|m1 - m2|^2 + sum (s1 - s2)^2 for independent coordinates."""
    rng = np.random.default_rng(1)
    scales = np.array([1.0, 2.0, 0.5])
    a, b = rng.normal(size=(1000, 3)) * scales, rng.normal(size=(1000, 3)) + np.array([3, 0, 0])
    assert frechet(a, b) == pytest.approx(9 + ((scales - 1) ** 2).sum(), rel=0.05)


def test_frechet_with_fewer_images_than_numbers():
    x = np.random.default_rng(0).normal(size=(6, 400))
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + 0.1) == pytest.approx(400 * 0.01, rel=1e-9)


def test_mmd_is_the_double_loop():
    rng = np.random.default_rng(0)
    a, b, width = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.5, 1.3

    def kernel(x, y):
        return exp(-sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / (2 * width**2))

    within_a = sum(kernel(a[i], a[j]) for i in range(7) for j in range(7) if i != j) / 42
    within_b = sum(kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(kernel(x, y) for x in a for y in b) / 35
    assert mmd(a, b, width) == pytest.approx(within_a + within_b - 2 * across, abs=1e-12)


def test_mmd_of_gaussians():
    """E k(x, y) = (h^2 / (h^2 + s^2))^(k/2) exp(-|m|^2 / (2 (h^2 + s^2))), with s^2 = 2 the variance of x - y."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2)) + np.array([1, 0])
    h2 = 1.5**2
    expected = 2 * h2 / (h2 + 2) * (1 - exp(-1 / (2 * (h2 + 2))))
    assert mmd(a, b, 1.5) == pytest.approx(expected, rel=0.2)
    assert abs(mmd(a[:1000], a[1000:], 1.5)) < 2e-3


def test_median_distance_of_a_line():
    assert median_distance(np.array([[0.0], [1], [3]])) == pytest.approx(2)  # of 1, 2 and 3


def test_a_common_displacement_changes_no_distance():
    x = np.random.default_rng(0).normal(size=(9, 3))
    assert median_distance(x + 1e6) == pytest.approx(median_distance(x), rel=1e-6)
    assert mmd(x[:4] + 1e6, x[4:] + 1e6, 1.0) == pytest.approx(mmd(x[:4], x[4:], 1.0), abs=1e-6)
