"""Where an identity's images are asked for: points on the geodesics from its prototype to its source images.

Digi2Real, section 3: t ~ Beta(alpha, alpha), and SLERP on the unit sphere. The prototype stands at t = 0; as
Beta(alpha, alpha) is symmetric, standing at t = 1 would give the same distribution. `angular_latents` is another way,
around the prototype.

Notation: k source images of an identity, l latents, n images, d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.transfer.method import seed_of


@dataclass(frozen=True)
class Latents:
    """The l identity vectors that one identity's images are generated from."""

    vectors: np.ndarray  # [l, d] float32, unit norm
    t: np.ndarray  # [l] float64 in [0, 1]; NaN where they are on no geodesic
    source: np.ndarray  # [l] int64, row of the source embedding at t = 1; -1 likewise


def slerp(start: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Walk along the shorter great circle from `start` to `end` (Digi2Real, equation 3).

    The walk is written as cos(t a) start + sin(t a) u, with u the unit tangent at `start` and the angle a from atan2,
    which has no 0/0 where the two coincide. Of opposite points every great circle is a shortest one: the one towards
    the coordinate axis that is farthest from `start` is taken.

    Args:
        start, end: [n, d], unit norm, d >= 2.
        t: [n], 0 at `start` and 1 at `end`.

    Returns:
        [n, d] float64, unit norm.
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    start, end = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (start, end))
    tangent, along = _reject(end, start)
    across = np.linalg.norm(tangent, axis=1)
    angle = np.arctan2(across, along) * np.asarray(t, np.float64)

    undirected = across < 1e-12
    axis = np.zeros_like(start)
    axis[np.arange(len(start)), np.abs(start).argmin(axis=1)] = 1
    tangent[undirected] = _reject(axis, start)[0][undirected]
    tangent, _ = _reject(tangent / np.linalg.norm(tangent, axis=1, keepdims=True), start)  # sheds the rounding error
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    point = np.cos(angle)[:, None] * start + np.sin(angle)[:, None] * tangent
    return point / np.linalg.norm(point, axis=1, keepdims=True)


def _reject(x: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of x that is orthogonal to `unit`, and the length of the other part."""
    along = np.einsum("nd,nd->n", x, unit)
    return x - along[:, None] * unit, along


def sample_latents(
    embeddings: np.ndarray,
    identity: int,
    *,
    latents: int,
    alpha: float,
    seed: int,
    sources: str = "random",
    prototype: str = "all",
) -> Latents:
    """Draw an identity's latents.

    A latent's draw is seeded by (seed, identity, its number): more latents leave the first ones as they are.

    Args:
        embeddings: [k, d], the identity's source embeddings; they are normalised here.
        identity: its number.
        latents: l; beyond k, the source images come round again.
        alpha: of Beta(alpha, alpha); 1 is uniform, larger is closer to halfway.
        seed: the global seed.
        sources: `random` (a permutation of the identity's images) or `first` (in the order of their numbers): which
            l of the k images are the far ends. The paper selects five and does not say how; a rendered identity's
            neighbouring numbers share their accessories (DigiFace-1M: 18 in a row), so the default is random.
        prototype: the normalised mean of `all` k images, or of the `selected` ones only. The paper takes "the class
            mean" after selecting five images; all images give the steadier mean.

    Raises:
        ValueError: no embeddings, one that has no direction, or a mean that has none.
    """
    embeddings = _units(embeddings, identity)
    order = np.arange(len(embeddings))
    if sources == "random":
        order = np.random.default_rng(seed_of(seed, "sources", identity)).permutation(order)
    source = order[np.arange(latents) % len(order)]
    centre = _centre(embeddings[np.unique(source) if prototype == "selected" else slice(None)], identity)
    t = np.array(
        [
            np.random.default_rng(seed_of(seed, "latent", identity, number)).beta(alpha, alpha)
            for number in range(latents)
        ]
    )
    start = np.broadcast_to(centre, (latents, embeddings.shape[1]))
    return Latents(slerp(start, embeddings[source], t).astype(np.float32), t, source)


def angular_latents(
    embeddings: np.ndarray, identity: int, *, latents: int, lowest_cosine: float, nearest: float, seed: int
) -> Latents:
    """Draw an identity's latents around its prototype, turned by a random angle in a random direction.

    IDperturb (arXiv 2602.18831): the cosine to the prototype is uniform from `lowest_cosine` to 1, and the angle at
    most half of that to the nearest other identity, so that no vector is nearer to another prototype than to its own.
    A latent's draw is seeded as that of `sample_latents`.

    Args:
        embeddings: [k, d], the identity's source embeddings; d >= 2.
        identity: its number.
        latents: l.
        lowest_cosine: in [0, 1].
        nearest: the angle between its prototype and the nearest other, radians.
        seed: the global seed.

    Raises:
        ValueError: as `sample_latents`.
    """
    centre = _centre(_units(embeddings, identity), identity)
    lowest = max(lowest_cosine, np.cos(nearest / 2))
    vectors = np.empty((latents, len(centre)))
    for number in range(latents):
        draw = np.random.default_rng(seed_of(seed, "angle", identity, number))
        angle = np.arccos(draw.uniform(lowest, 1))
        tangent = _reject(draw.standard_normal((1, len(centre))), centre[None])[0][0]
        vectors[number] = np.cos(angle) * centre + np.sin(angle) * tangent / np.linalg.norm(tangent)
    return Latents(vectors.astype(np.float32), np.full(latents, np.nan), np.full(latents, -1))


def _units(embeddings: np.ndarray, identity: int) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(embeddings, axis=1)
    if not len(embeddings) or not np.all(np.isfinite(norms) & (norms > 0)):
        raise ValueError(f"identity {identity}: no embeddings, or one that is zero or not finite")
    return embeddings / norms[:, None]


def _centre(embeddings: np.ndarray, identity: int) -> np.ndarray:
    """The prototype: the normalised mean."""
    mean = embeddings.mean(axis=0)
    length = np.linalg.norm(mean)
    if length < 1e-6:
        raise ValueError(f"identity {identity}: its embeddings cancel out, so it has no prototype")
    return mean / length
