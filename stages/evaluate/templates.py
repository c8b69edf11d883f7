"""Templates of IJB-B and IJB-C: 1:1 verification and 1:N identification of sets of images.

The images of one medium (a video, or one still) are averaged, the media of a template summed, the sum scaled to unit
length; the score of two templates is the cosine. What an image contributes is a variant in the field's notation, which
must stand beside every number (half a point between them on IJB-C):

- `N1` keeps the norm of the embedding, `N0` scales each image to unit length;
- `D1` weighs each image with its detector score, `D0` does not;
- `F1` adds the embedding of the mirror image first, `F0` does not.

insightface's eval_ijbc.py measures N1D1F1; AdaFace's validate_IJB_BC.py N1D0F1; CVLface N1D1F1, N1D0F1 and N0D1F1.

Notation: n images, t templates, p pairs, d dimensions, q probes, g gallery templates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from scipy import sparse

from stages.evaluate.benchmarks import ProtocolError

FPIRS = (1e-2, 1e-1)
RANKS = (1, 5, 10)
PROTOCOLS = ("insightface", "galleries")


@dataclass(frozen=True)
class Variant:
    """What an image contributes to its template."""

    norm: bool = True
    detector: bool = True
    flip: bool = True

    def __str__(self) -> str:
        return f"N{self.norm:d}D{self.detector:d}F{self.flip:d}"


def contributions(views: np.ndarray, detector_scores: np.ndarray, variant: Variant) -> np.ndarray:
    """What each image adds to its medium: [v, n, d] raw embeddings and [n] scores -> [n, d] of the views' dtype.

    Raises:
        ValueError: F1 without the mirrored view.
        ProtocolError: an embedding that is not finite.
    """
    if variant.flip and len(views) < 2:
        raise ValueError(f"{variant} adds the mirror image: its embeddings are missing")
    features = views[0] + views[1] if variant.flip else views[0].copy()
    squared = np.einsum("nd,nd->n", features, features)
    if not np.isfinite(squared).all():
        broken = int(np.argmin(np.isfinite(squared)))
        raise ProtocolError(f"the embedding of image {broken} is not finite: the network is broken or its input is")
    if not variant.norm:
        unit(features)
    if variant.detector:
        features *= detector_scores.astype(features.dtype)[:, None]
    return features


def pool(
    features: np.ndarray, image: np.ndarray, template: np.ndarray, media: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean within a medium, sum over the media of a template, unit length.

    Two sparse matrices of ones do the sums, in the order and precision of the official loops.

    Args:
        features: [n, d] what each image contributes.
        image: [r] int, the image of each row; rows come in any order.
        template: [r] int, the template of each row.
        media: [r] int, the medium of each row; the same number in another template is another medium.

    Returns:
        ids [t] int64, rising, and the templates [t, d] float64, unit norm.
    """
    ids, template_of_row = np.unique(template, return_inverse=True)
    _, medium_of_row = np.unique(media, return_inverse=True)
    keys = template_of_row.astype(np.int64) * (medium_of_row.max() + 1) + medium_of_row
    _, first, medium_of_row, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    means = _membership(medium_of_row, len(sizes), image, len(features), features.dtype) @ features
    means /= sizes.astype(features.dtype)[:, None]
    sums = _membership(template_of_row[first], len(ids), np.arange(len(sizes)), len(sizes), features.dtype) @ means
    return ids.astype(np.int64), unit(sums.astype(np.float64))


def _membership(group: np.ndarray, groups: int, member: np.ndarray, members: int, dtype: np.dtype) -> sparse.csr_array:
    """[groups, members] matrix with a one for each row (group, member); a group's members keep the rows' order."""
    order = np.argsort(group, kind="stable")
    offsets = np.r_[0, np.cumsum(np.bincount(group, minlength=groups))]
    return sparse.csr_array((np.ones(len(group), dtype), member[order], offsets), shape=(groups, members))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of [n, d] to unit length, in place; a zero row stays zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    norms[norms == 0] = 1
    vectors /= norms[:, None]
    return vectors


def scores(ids: np.ndarray, templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each pair of templates: [p] float64.

    Args:
        ids: [t] rising template numbers, as `pool` returns them.
        templates: [t, d] float64, unit norm.
        first: [p] template numbers.
        second: [p] template numbers.

    Raises:
        ProtocolError: a pair names a template that has no image; the message says which pair and which template.
    """
    return _dots(templates, rows_of(ids, first), rows_of(ids, second))


def rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index in the rising `ids` of each wanted number.

    Raises:
        ProtocolError: a number that is not among them, with the place where it is first wanted.
    """
    rows = np.searchsorted(ids, wanted)
    unknown = ids[np.minimum(rows, len(ids) - 1)] != wanted
    if unknown.any():
        place = int(np.argmax(unknown))
        raise ProtocolError(f"row {place + 1} names template {wanted[place]}, which has no image")
    return rows


@numba.njit(parallel=True, fastmath={"reassoc", "contract"}, cache=True)
def _dots(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:  # pragma: no cover
    # A loop, since a matrix product would compute 34 times the pairs of IJB-C, and rounds equal pairs differently.
    result = np.empty(len(left))
    for pair in numba.prange(len(left)):
        total = 0.0
        a, b = left[pair], right[pair]
        for dimension in range(vectors.shape[1]):
            total += vectors[a, dimension] * vectors[b, dimension]
        result[pair] = total
    return result


@dataclass(frozen=True)
class Identification:
    """1:N search.

    Attributes:
        rank: {k: share of the mated probes whose mate is among the first k}, for k = 1, 5 and 10.
        tpir: {FPIR: share of the mated probes whose mate scores above the threshold}.
    """

    rank: dict[int, float]
    tpir: dict[float, float]


def identify(
    probes: np.ndarray,
    probe_subjects: np.ndarray,
    galleries: list[tuple[np.ndarray, np.ndarray]],
    protocol: str = "insightface",
) -> Identification:
    """Search each probe template in the galleries.

    Args:
        probes: [q, d] float64, unit norm.
        probe_subjects: [q] int.
        galleries: of (templates [g, d] float64 unit norm, subjects [g] int), a subject once in each.
        protocol: `insightface` (ijb_1n.py, also AdaFace's): the galleries are one; every probe has its mate in it; the
            threshold at a FPIR x is the ceil(x q)-th greatest score of all non-mated pairs. `galleries` (the IJB-C
            paper): each gallery is searched by itself, the probes without a mate in it give the threshold (the
            ceil(x m)-th greatest of their m best scores), and the rates are averaged.

    Raises:
        ValueError: an unknown protocol.
        ProtocolError: a subject twice in a gallery, a probe without a mate (`insightface`), or a gallery without mated
            or without non-mated probes (`galleries`).
    """
    if protocol == "insightface":
        templates = np.concatenate([templates for templates, _ in galleries])
        mates = _mates(probe_subjects, np.concatenate([subjects for _, subjects in galleries]))
        if (mates < 0).any():
            raise ProtocolError(f"subject {probe_subjects[np.argmin(mates)]} of a probe is in no gallery")
        ranks, mated, others = _search(probes, templates, mates, math.ceil(len(probes) * max(FPIRS)))
        pool_of_impostors = np.sort(others, axis=None)[::-1]
        return _rates(ranks, mated, pool_of_impostors, len(probes))
    if protocol != "galleries":
        raise ValueError(f"identification protocol {protocol!r}: one of {', '.join(PROTOCOLS)}")
    parts = []
    for number, (templates, subjects) in enumerate(galleries, 1):
        mates = _mates(probe_subjects, subjects)
        known = mates >= 0
        if known.all() or not known.any():
            raise ProtocolError(f"gallery {number}: probes with a mate in it and probes without one were expected")
        ranks, mated, others = _search(probes, templates, mates, 1)
        best = np.sort(others[~known, 0])[::-1]
        parts.append(_rates(ranks[known], mated[known], best, len(best)))
    return Identification(
        {rank: float(np.mean([part.rank[rank] for part in parts])) for rank in parts[0].rank},
        {fpir: float(np.mean([part.tpir[fpir] for part in parts])) for fpir in FPIRS},
    )


def _mates(probe_subjects: np.ndarray, gallery_subjects: np.ndarray) -> np.ndarray:
    """Gallery row of each probe's subject, -1 where there is none."""
    order = np.argsort(gallery_subjects, kind="stable")
    subjects = gallery_subjects[order]
    if (subjects[1:] == subjects[:-1]).any():
        twice = subjects[1:][subjects[1:] == subjects[:-1]][0]
        raise ProtocolError(f"subject {twice} is in the gallery twice: one template a subject was expected")
    place = np.minimum(np.searchsorted(subjects, probe_subjects), len(subjects) - 1)
    return np.where(subjects[place] == probe_subjects, order[place], -1)


def _search(
    probes: np.ndarray, gallery: np.ndarray, mates: np.ndarray, keep: int, block: int = 1024
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank [q] and score [q] of each mate, and for each probe its `keep` greatest other scores [q, <= keep].

    Equal scores rank in the order of the gallery. Probes without a mate get rank 0 and score -inf.
    """
    keep = min(keep, gallery.shape[0])
    ranks, mated, others = [], [], []
    for begin in range(0, len(probes), block):
        similarity = probes[begin : begin + block] @ gallery.T
        mate = mates[begin : begin + block]
        row = np.arange(len(mate))
        known = mate >= 0
        score = np.where(known, similarity[row, mate], -np.inf)
        before = np.arange(gallery.shape[0]) < mate[:, None]
        ahead = (similarity > score[:, None]) | ((similarity == score[:, None]) & before)
        ranks.append(np.where(known, ahead.sum(axis=1) + 1, 0))
        mated.append(score)
        similarity[row[known], mate[known]] = -np.inf
        others.append(np.partition(similarity, similarity.shape[1] - keep, axis=1)[:, -keep:])
    return np.concatenate(ranks), np.concatenate(mated), np.concatenate(others)


def _rates(ranks: np.ndarray, mated: np.ndarray, impostors: np.ndarray, searches: int) -> Identification:
    """Rates from ranks and scores of the mates, and the falling scores of the impostors of so many searches."""
    tpir = {fpir: float(np.mean(mated > impostors[math.ceil(searches * fpir) - 1])) for fpir in FPIRS}
    return Identification({rank: float(np.mean(ranks <= rank)) for rank in RANKS}, tpir)
