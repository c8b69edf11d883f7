"""How far the identities of a set lie apart: the cosines of two images of one person against those of two people.

Means and variances are exact over all pairs, however many there are: with x_i of unit norm, the sum of the cosines of
all ordered pairs is |sum x_i|^2, and that of their squares |X^T X|^2. Error rates are counted on the curve of all
pairs, or of as many as `PAIRS` of each kind, drawn at random.

Notation: n images of m identities, d dimensions, k images of one identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.filter import nearest
from stages.transfer.method import seed_of

PAIRS = 10_000_000  # of each kind on the curve
STEP = 4096  # vectors in memory at a time


@dataclass(frozen=True)
class Moments:
    """Number, mean and standard deviation of the cosines of some pairs."""

    pairs: int
    mean: float
    std: float


def moments(vectors: np.ndarray, starts: np.ndarray) -> tuple[Moments, Moments]:
    """Genuine and impostor cosines, of all pairs.

    Args:
        vectors: [n, d], unit norm, an identity's images side by side.
        starts: [m + 1], the first row of each identity, and n.
    """
    dimension = vectors.shape[1]
    total, square, own, own_fourth = np.zeros(dimension), np.zeros((dimension, dimension)), 0.0, 0.0
    for first in range(0, len(vectors), STEP):
        part = np.asarray(vectors[first : first + STEP], np.float64)
        lengths = np.einsum("nd,nd->n", part, part)
        total, square = total + part.sum(axis=0), square + part.T @ part
        own, own_fourth = own + lengths.sum(), own_fourth + (lengths**2).sum()
    everything = np.array([len(vectors) ** 2 - len(vectors), total @ total - own, (square**2).sum() - own_fourth])
    genuine = np.zeros(3)
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        cosines = np.asarray(vectors[first:last], np.float64)
        cosines = (cosines @ cosines.T)[~np.eye(last - first, dtype=bool)]
        genuine += (len(cosines), cosines.sum(), (cosines**2).sum())
    return _moments(*genuine / 2), _moments(*(everything - genuine) / 2)


def _moments(pairs: float, total: float, square: float) -> Moments:
    if not pairs:
        return Moments(0, math.nan, math.nan)
    return Moments(round(pairs), total / pairs, math.sqrt(max(square / pairs - (total / pairs) ** 2, 0)))


def fdr(genuine: Moments, impostor: Moments) -> float:
    """Fisher's discriminant ratio: the squared difference of the means over the sum of the variances."""
    return (genuine.mean - impostor.mean) ** 2 / (genuine.std**2 + impostor.std**2)


def scores(vectors: np.ndarray, starts: np.ndarray, seed: int = 0, limit: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
    """Cosines [p] float64 of pairs, and which are genuine [p] bool: all pairs of a kind, or `limit` drawn from them.

    Args:
        vectors, starts: as of `moments`.
        seed: of the draw.
        limit: pairs of each kind.
    """
    n, sizes, draw = len(vectors), np.diff(starts), np.random.default_rng(seed_of(seed, "audit", "pairs"))
    identity = np.repeat(np.arange(len(sizes)), sizes)
    of_one = sizes * (sizes - 1) // 2
    if (genuine := int(of_one.sum())) <= limit:
        blocks = [np.stack(np.triu_indices(size, 1)) + first for first, size in zip(starts, sizes, strict=False)]
        first, second = np.concatenate(blocks, axis=1)
    else:
        own = np.searchsorted(of_one.cumsum(), draw.integers(genuine, size=limit), side="right")
        first = draw.integers(sizes[own])
        second = (first + 1 + draw.integers(sizes[own] - 1)) % sizes[own] + starts[own]
        first += starts[own]
    same = cosines(vectors, first, second)
    if n * (n - 1) // 2 - genuine <= limit:
        rows = (_later(vectors, identity, row) for row in range(n))
        different = np.concatenate([np.zeros(0), *rows])
    else:
        first = draw.integers(n, size=limit)
        second = draw.integers(n, size=limit)
        while (again := np.flatnonzero(identity[first] == identity[second])).size:
            second[again] = draw.integers(n, size=len(again))
        different = cosines(vectors, first, second)
    return np.concatenate([same, different]), np.arange(len(same) + len(different)) < len(same)


def _later(vectors: np.ndarray, identity: np.ndarray, row: int) -> np.ndarray:
    """Cosines of a row to the rows of later identities."""
    first = int(np.searchsorted(identity, identity[row], side="right"))
    return (vectors[first:] @ vectors[row]).astype(np.float64)


def cosines(vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of pairs of rows: [p] float64."""
    result = np.empty(len(first))
    for begin in range(0, len(first), STEP):
        part = slice(begin, begin + STEP)
        np.einsum("pd,pd->p", vectors[first[part]], vectors[second[part]], dtype=np.float64, out=result[part])
    return result


def apart(prototypes: np.ndarray, threshold: float, device: str = "cpu") -> tuple[int, int, float]:
    """How many identities are left without near-duplicates.

    In their order, an identity counts where none that counts already has a prototype nearer than the threshold.

    Args:
        prototypes: [m, d] float32, unit norm.
        threshold: a cosine.
        device: of torch.

    Returns:
        Identities; pairs above the threshold; the largest cosine of two prototypes.
    """
    if len(prototypes) < 2:
        return len(prototypes), 0, math.nan
    similarity, _, pairs = nearest(prototypes, threshold, device=device)
    close = prototypes[similarity > threshold - 1e-6]  # nobody else is dropped, or drops another
    kept, count = np.empty_like(close), 0
    for vector in close:
        if not (kept[:count] @ vector > threshold).any():
            kept[count] = vector
            count += 1
    return len(prototypes) - len(close) + count, pairs, float(similarity.max())
