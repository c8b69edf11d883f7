"""Which identities are kept: those farthest from their nearest other come first.

    r2r filter

Digi2Real keeps the rendered identities that are least similar, without saying whether to their nearest other or to all
others on average; `filter.score` names the choice. The default is max: a look-alike is what harms a label.

Notation: m identities, d dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from tqdm import tqdm

from stages.embed.prototypes import identity_sums
from stages.images import Faces, read_faces
from stages.knobs import Device, ParamsError, knob, knobs, pick_device
from stages.pictures import Panel, chart, save_chart, save_png, sheet
from stages.store import Shard, StoreError, replacing, write_json, write_shard

if TYPE_CHECKING:
    from stages.params import Params

BIN = 0.02  # of the histogram, cosine
CLOSEST = 24  # pairs on the sheet
COLUMNS = 4  # pairs in a row of it


@knobs("filter")
class Filter:
    """Which identities are kept."""

    # the paper does not say which (docs/choices.md)
    score: Literal["max", "mean", "none"] = knob(
        "max", "max | mean cosine similarity to the other identities; none: as they come, by number"
    )
    threshold: float = knob(0.5, "cosine; pairs above it are counted in the metrics", ge=-1, le=1)
    block: int = knob(768, "lines of a block of the similarity matrix; the result does not depend on it", ge=1)
    device: Device = knob("auto", "auto | cpu | cuda")


def run(params: Params, root: Path = Path(".")) -> None:
    """Order the identities of `data/embed/source` and choose the first `n_ids`.

    Writes `data/filter.h5`, in rising order of the score (ties, and `none`, by identity number): identity [m] int64,
    score [m] float64, similarity [m] float64 to nearest [m] int64, the nearest other identity, and chosen [m] bool.

    Raises:
        ParamsError: `n_ids` is larger than the number of identities.
        StoreError: no embeddings, or an identity whose embeddings cancel out.
    """
    shards = sorted((root / "data/embed/source").glob("*.h5"))
    identities, sums, _ = identity_sums(shards)
    if params.n_ids > len(identities):
        raise ParamsError(
            f"n_ids is {params.n_ids}, but the source has {len(identities)} identities; lower it or add zips"
        )
    vectors = prototypes(identities, sums)
    device = pick_device(params.filter.device, "filter.device")
    similarity, index, above = nearest(vectors, params.filter.threshold, params.filter.block, device)
    score = mean_similarity(vectors) if params.filter.score == "mean" else similarity
    order = np.argsort(identities) if params.filter.score == "none" else np.lexsort((identities, score))
    chosen = np.arange(len(order)) < params.n_ids

    # A pair above the threshold has both its identities' nearest above it: no other pair need be looked at again.
    close = order[chosen][similarity[order[chosen]] > params.filter.threshold - 1e-6]
    kept_above = (
        nearest(vectors[close], params.filter.threshold, params.filter.block, device)[2] if len(close) > 1 else 0
    )
    metrics = {
        "identities": len(identities),
        "chosen": params.n_ids,
        "pairs_above_threshold": above,
        "pairs_above_threshold_chosen": kept_above,
        "similarity_mean": round(float(similarity.mean()), 4),
        "similarity_max": round(float(similarity.max()), 4),
        "similarity_mean_chosen": round(float(similarity[order[chosen]].mean()), 4),
        "similarity_max_chosen": round(float(similarity[order[chosen]].max()), 4),
    }
    plots = root / "plots"
    threshold = params.filter.threshold
    _histogram(similarity, similarity[order[chosen]], threshold, plots / "filter.csv", plots / "filter.png")
    source = read_faces(root / "data/source")
    save_png(plots / "filter_pairs.png", _closest_pairs(identities, similarity, index, source))
    columns = {
        "identity": identities[order],
        "score": score[order],
        "similarity": similarity[order],
        "nearest": identities[index[order]],
        "chosen": chosen,
    }
    write_shard(root / "data/filter.h5", columns)
    write_json(root / "metrics/filter.json", metrics)


def chosen_identities(path: Path, count: int | None = None) -> list[int]:
    """The chosen identities, from the farthest from its nearest other to the closest; evenly `count` of them.

    Args:
        path: `data/filter.h5`.
        count: default is all.

    Raises:
        StoreError: none is chosen.
    """
    with Shard(path) as shard:
        chosen = shard["identity"][shard["chosen"]]
    if not len(chosen):
        raise StoreError(f"{path}: no identity is chosen; run `r2r filter` again")
    count = len(chosen) if count is None else count
    return chosen[np.linspace(0, len(chosen) - 1, min(count, len(chosen))).round().astype(int)].tolist()


def prototypes(identities: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Normalise each identity's summed embeddings: [m, d] float32, unit norm.

    Raises:
        StoreError: an identity's embeddings cancel out.
    """
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    if (none := identities[~(lengths[:, 0] > 1e-6)]).size:
        raise StoreError(f"identity {none[0]}: its embeddings cancel out, so that it has no prototype")
    return sums / lengths


def mean_similarity(vectors: np.ndarray) -> np.ndarray:
    """Mean cosine of each vector to the others: [m] float64, from their sum, without the matrix."""
    total = vectors.sum(0, dtype=np.float64)
    own = np.einsum("md,md->m", vectors, vectors, dtype=np.float64)
    return (vectors @ total - own) / (len(vectors) - 1)


def nearest(
    vectors: np.ndarray, threshold: float = 1.0, block: int = 768, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray, int]:
    """Find each vector's nearest other, exactly.

    The similarity matrix is symmetric: each block of pairs is multiplied once, and serves its rows and its columns.
    Only the lines of a block that raise a maximum are searched for its place, and one block is in memory at a time.

    Args:
        vectors: [m, d] float32, unit norm, m >= 2.
        threshold: a cosine; the pairs above it are counted.
        block: lines of a block; 768 x 768 float32 stay in a CPU's cache between the product and the maxima.
        device: of torch.

    Returns:
        similarity [m] float64 to the nearest other; its index [m] int64, the lowest of equals; how many of the
        m (m - 1) / 2 pairs have a float32 cosine above the threshold.
    """
    m = len(vectors)
    data = torch.from_numpy(vectors).to(device)
    maxima = Maxima(m, device)
    above = torch.zeros((), dtype=torch.int64, device=device)
    diagonal_and_below = torch.ones(block, block, dtype=torch.bool, device=device).tril()
    starts = range(0, m, block)
    pairs = [(i, j) for i in starts for j in starts if i <= j]
    for i, j in tqdm(pairs, desc="filter", unit=" blocks"):
        cosines = data[i : i + block] @ data[j : j + block].T
        if i == j:
            cosines.masked_fill_(diagonal_and_below[: len(cosines), : len(cosines)], -torch.inf)
        maxima.lift(cosines.T, j, i)  # before the rows, so that each line meets the others in rising order
        highest = maxima.lift(cosines, i, j)
        above += torch.count_nonzero(cosines[highest > threshold] > threshold)
    found = maxima.index.cpu().numpy()
    return _exactly(vectors, vectors, found, block), found, int(above)


def nearest_among(
    vectors: np.ndarray, others: np.ndarray, block: int = 768, device: str = "cpu", title: str = "nearest"
) -> tuple[np.ndarray, np.ndarray]:
    """Find each vector's nearest of another set, exactly; both may lie on disk, and a block of each is in memory.

    Args:
        vectors: [m, d] float32, unit norm.
        others: [n, d] likewise.
        block: lines of a block.
        device: of torch.
        title: of the bar.

    Returns:
        similarity [m] float64; index [m] int64 into `others`, the lowest of equals.
    """
    maxima = Maxima(len(vectors), device)
    pairs = [(i, j) for j in range(0, len(others), block) for i in range(0, len(vectors), block)]
    for i, j in tqdm(pairs, desc=title, unit=" blocks"):
        left, right = (torch.from_numpy(np.array(part)) for part in (vectors[i : i + block], others[j : j + block]))
        maxima.lift(left.to(device) @ right.to(device).T, i, j)
    found = maxima.index.cpu().numpy()
    return _exactly(vectors, others, found, block), found


class Maxima:
    """The highest cosine that each of m vectors has met, and the lowest number of the other that has it."""

    def __init__(self, m: int, device: str) -> None:
        self.best = torch.full((m,), -torch.inf, device=device)
        self.index = torch.zeros(m, dtype=torch.int64, device=device)

    def lift(self, cosines: torch.Tensor, first: int, first_other: int) -> torch.Tensor:
        """Meet a block of cosines, of the vectors from `first` to the others from `first_other`; gives its maxima."""
        highest = cosines.amax(1)
        raised = (highest > self.best[first : first + len(highest)]).nonzero().squeeze(1)
        self.best[first + raised] = highest[raised]
        self.index[first + raised] = first_other + cosines[raised].argmax(1)
        return highest


def _exactly(vectors: np.ndarray, others: np.ndarray, found: np.ndarray, block: int) -> np.ndarray:
    """The cosine of each vector to the one that was found, summed in float64: a float32 product depends on blocks."""
    similarity = np.empty(len(vectors))
    for i in range(0, len(vectors), block):
        part = slice(i, i + block)
        np.einsum("md,md->m", vectors[part], others[found[part]], dtype=np.float64, out=similarity[part])
    return similarity


def _histogram(everyone: np.ndarray, chosen: np.ndarray, threshold: float, table: Path, picture: Path) -> None:
    first, last = np.floor(everyone.min() / BIN), np.floor(everyone.max() / BIN) + 1
    edges = np.arange(first, last + 1) * BIN
    counts = {"all": np.histogram(everyone, edges)[0], "chosen": np.histogram(chosen, edges)[0]}
    with replacing(table) as path:
        lines = [f"{low:.2f},{a},{c}" for low, a, c in zip(edges[:-1], *counts.values(), strict=True)]
        path.write_text("\n".join(["similarity,identities,chosen", *lines]) + "\n")
    curves = {
        f"all {len(everyone):,} identities": (edges, counts["all"]),
        f"the {len(chosen):,} chosen": (edges, counts["chosen"]),
    }
    marks = {f"threshold {threshold:g}": threshold} if edges[0] <= threshold <= edges[-1] else {}
    panel = Panel(curves, "cosine similarity to the nearest other identity", "identities", marks=marks)
    save_chart(picture, chart([panel], size=(7, 4)))


def _closest_pairs(identities: np.ndarray, similarity: np.ndarray, index: np.ndarray, source: Faces) -> np.ndarray:
    """The first images of the pairs of identities that are nearest to each other."""
    tiles, captions, seen = [], [], set()
    for row in np.argsort(-similarity, kind="stable"):
        pair = frozenset((int(row), int(index[row])))
        if pair in seen:
            continue
        seen.add(pair)
        faces = [source.image(source.rows(int(identities[one]))[0]) for one in sorted(pair)]
        tiles.append(np.hstack(faces))
        captions.append(f"{' | '.join(str(identities[one]) for one in sorted(pair))}   {similarity[row]:.3f}")
        if len(tiles) == CLOSEST:
            break
    starts = range(0, len(tiles), COLUMNS)
    rows = {f"pairs {start + 1} to {start + len(tiles[start : start + COLUMNS])}": start for start in starts}
    return sheet(
        {title: tiles[start : start + COLUMNS] for title, start in rows.items()},
        captions={title: captions[start : start + COLUMNS] for title, start in rows.items()},
    )
