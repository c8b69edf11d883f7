"""How far apart two clouds of points are.

Notation: n and m points in k dimensions.
"""

from __future__ import annotations

import numpy as np


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two clouds [n, k] and [m, k], each taken as a Gaussian (as in FID).

    With the centred clouds A and B, tr((Ca Cb)^1/2) is the sum of the singular values of A B^T / sqrt((n-1)(m-1)): an
    n x m matrix, where k x k would not fit in memory, and no square root of a singular matrix.
    """
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    a, b = a - mean_a, b - mean_b
    n, m = len(a) - 1, len(b) - 1
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum() / np.sqrt(n * m)
    spread = np.einsum("nk,nk->", a, a) / n + np.einsum("nk,nk->", b, b) / m
    return float(((mean_a - mean_b) ** 2).sum() + spread - 2 * cross)


def mmd(a: np.ndarray, b: np.ndarray, bandwidth: float) -> float:
    """Unbiased squared maximum mean discrepancy of [n, k] and [m, k] under exp(-|x - y|^2 / (2 bandwidth^2)).

    Gretton et al., 2012, equation 3; about zero, and as often below it, when both are of one distribution.
    """
    n, m = len(a), len(b)
    kernel_a, kernel_b, cross = (np.exp(-_squared(x, y) / (2 * bandwidth**2)) for x, y in ((a, a), (b, b), (a, b)))
    within_a = (kernel_a.sum() - np.trace(kernel_a)) / (n * (n - 1))
    within_b = (kernel_b.sum() - np.trace(kernel_b)) / (m * (m - 1))
    return float(within_a + within_b - 2 * cross.mean())


def median_distance(x: np.ndarray) -> float:
    """Median distance between two different rows of x [n, k], the usual bandwidth of `mmd`."""
    return float(np.sqrt(np.median(_squared(x, x)[np.triu_indices(len(x), 1)])))


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances [n, m]; the common mean is taken off first, as it would swallow the digits."""
    mean = x.mean(axis=0)
    x, y = x - mean, y - mean
    squared = np.einsum("nk,nk->n", x, x)[:, None] + np.einsum("mk,mk->m", y, y) - 2 * x @ y.T
    return np.maximum(squared, 0)
