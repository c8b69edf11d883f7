"""The domain gap: by how much the source's conditioning lies beside the target's.

    r2r gap

Digi2Real, section 3: delta = mean over target images - mean over source images, added in generation (equations 1 and
2). The paper says "CLIP space"; taken here in the output of the generator's text encoder, where Arc2Face takes its
conditioning. It is the mean over what the encoder makes of the images' identity vectors, so that its rows before the
identity's token, which no identity can reach through the causal mask, are exactly zero.

Notation: n images of each domain, L tokens, W width of the conditioning, k = L W numbers of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from stages.embed.prototypes import SourceEmbeddings, source_shards
from stages.knobs import check, knob, knobs
from stages.measures import frechet, median_distance, mmd
from stages.pictures import save_png, sheet
from stages.run.machine import Machine, Work
from stages.store import Shard, StoreError, emptied, nothing, replacing, write_json, write_shard
from stages.transfer.method import seed_of

if TYPE_CHECKING:
    from stages.params import Params
    from stages.transfer.arc2face.pipeline import Arc2FacePipeline

TSNE_POINTS = 500  # images of each domain in the plot
TSNE_SECONDS = 8.0  # of 1,500 points, and of loading the generator
TEXT_ENCODER = 13e9  # operations of CLIP ViT-L/14's text tower, 77 tokens
SHEET = 8  # source images on the sheet without and with the gap
WALKS, WALK_STEPS = 4, 7  # identities on the sheet along t, and images of each


@knobs("gap")
class Gap:
    """The domain gap and how it is applied."""

    n_images: int = knob(1000, "of each domain; the paper's; at least 4, as the distances halve them", ge=4)
    weight: float = knob(1.0, "of delta in generation; 0 is without. Equation 2 adds delta as it is")
    # The unconditional branch stands for every face, so shifting it too would cancel the shift's amplification by
    # guidance; the paper does not say.
    branch: Literal["conditional", "both"] = knob("conditional", "of classifier-free guidance, to which delta is added")
    batch_size: int = knob(64, "images", ge=1)


def run(params: Params, root: Path = Path(".")) -> None:
    """Estimate the gap between `data/embed/source` and `data/embed/target.h5`.

    Writes `data/gap/delta.h5` (delta [L, W] float32, not weighted), `metrics/gap.json`, `plots/gap/tsne.png`,
    `plots/gap/sheet.png` (images without and with the gap, of the same identity vectors and noise) and
    `plots/gap/walk.png` (images along the geodesic that synthesize draws from). A method without such a conditioning
    has no gap: then the folders are empty, and the metrics say that no image was looked at.

    Raises:
        ParamsError: `gap.n_images` is more than a domain has.
        StoreError: embeddings or generator are missing, or the encoder is not causal.
    """
    gap, folder, plots = params.gap, root / "data/gap", root / "plots/gap"
    if not params.transfer.has_gap:
        for empty in (folder, plots):
            nothing(empty, f"method {params.method} has no gap")
        write_json(root / "metrics/gap.json", {"images": 0})
        return
    from stages.transfer.arc2face.loading import load_pipeline  # here: diffusers takes seconds to load

    source_paths = source_shards(root)
    target_paths = [root / "data/embed/target.h5"]
    source = draw(source_paths, gap.n_images, seed_of(params.seed, "gap", "source"))
    target = draw(target_paths, gap.n_images, seed_of(params.seed, "gap", "target"))
    pipeline = load_pipeline(params.transfer, root)
    with tqdm(desc="gap", unit=" images", total=2 * gap.n_images) as bar:
        source_states = encode(pipeline, source, gap.batch_size, bar)
        target_states = encode(pipeline, target, gap.batch_size, bar)
    delta = domain_gap(source_states, target_states)
    if delta[: pipeline.position].any():
        raise StoreError("the gap is not zero before the identity's token: the text encoder's mask is not causal")
    metrics = {
        "images": gap.n_images,
        "weight": gap.weight,
        "norm": float(np.linalg.norm(delta)),
        **measure(source_states, target_states, gap.weight),
    }
    emptied(folder)
    emptied(plots)
    with replacing(plots / "tsne.png") as path:
        _plot(source_states, target_states, gap.weight * delta, seed_of(params.seed, "gap", "t-SNE"), path)
    save_png(plots / "sheet.png", _sheet(params, pipeline, source[:SHEET], gap.weight * delta))
    save_png(plots / "walk.png", _walk(params, pipeline, root, gap.weight * delta))
    write_shard(folder / "delta.h5", {"delta": delta})
    write_json(root / "metrics/gap.json", {name: round(value, 6) for name, value in metrics.items()})


def cost(params: Params, root: Path, machine: Machine) -> Work | None:
    """About how long it takes."""
    if not params.transfer.has_gap:
        return None
    count = 2 * params.gap.n_images
    each = machine.seconds(TEXT_ENCODER if params.transfer.base else 0, params.transfer.device)
    return Work(count * each + TSNE_SECONDS, f"{count:,} images and a t-SNE")


def draw(paths: list[Path], count: int, seed: int) -> np.ndarray:
    """Draw images without replacement from all shards: their embeddings [count, d] float32, unit norm.

    Raises:
        ParamsError: there are fewer.
    """
    sizes = []
    for path in paths:
        with Shard(path) as shard:
            sizes.append(len(shard))
    total = sum(sizes)
    check(count <= total, f"gap.n_images is {count}, but {paths[0].parent} has {total} images of this domain")
    chosen = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    parts = []
    for path, end, size in zip(paths, np.cumsum(sizes), sizes, strict=True):
        rows = chosen[(chosen >= end - size) & (chosen < end)] - (end - size)
        with Shard(path) as shard:
            parts.append(shard.column("embedding")[rows])
    return np.concatenate(parts)


def encode(pipeline: Arc2FacePipeline, vectors: np.ndarray, batch_size: int, bar: tqdm | None = None) -> np.ndarray:
    """Conditioning of identity vectors [n, d]: [n, L, W] float32."""
    states = []
    for batch in torch.from_numpy(vectors).split(batch_size):
        states.append(pipeline.encode_identity(batch).float().cpu().numpy())
        if bar is not None:
            bar.update(len(batch))
    return np.concatenate(states)


def domain_gap(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """mean(target) - mean(source) over the images: [n, L, W] each -> [L, W] float32, summed in float64.

    Raises:
        ValueError: different numbers of images; equal ones make what the domains share cancel exactly.
    """
    if source.shape != target.shape:
        raise ValueError(f"clouds of the shapes {source.shape} and {target.shape}: the same number of each is needed")
    return (target.mean(axis=0, dtype=np.float64) - source.mean(axis=0, dtype=np.float64)).astype(np.float32)


def measure(source: np.ndarray, target: np.ndarray, weight: float) -> dict[str, float]:
    """Fréchet distance and MMD of the two clouds, before and after the shift.

    Each half of the images is shifted by the gap that the other half estimates: on its own images a gap of weight 1
    removes the difference of the means by definition. The kernel's bandwidth is the target's, so that before and after
    are on one scale.

    Args:
        source, target: [n, L, W].
        weight: of the gap.
    """
    source, target = (cloud.reshape(len(cloud), -1).astype(np.float64) for cloud in (source, target))
    bandwidth = median_distance(target)
    folds = []
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - half.start, None, 2)
        shifted = source[half] + weight * (target[other].mean(axis=0) - source[other].mean(axis=0))
        folds.append(
            {
                "frechet_before": frechet(source[half], target[half]),
                "frechet_after": frechet(shifted, target[half]),
                "mmd_before": mmd(source[half], target[half], bandwidth),
                "mmd_after": mmd(shifted, target[half], bandwidth),
            }
        )
    return {name: float(np.mean([fold[name] for fold in folds])) for name in folds[0]}


def _plot(source: np.ndarray, target: np.ndarray, shift: np.ndarray, seed: int, path: Path) -> None:
    """t-SNE of the two clouds before and after the shift, in one embedding (Digi2Real, figure 3)."""
    from sklearn.manifold import TSNE  # here: it takes a second to load

    clouds = [states[:TSNE_POINTS] for states in (source, source + shift, target)]
    points = np.concatenate(clouds).reshape(3 * len(clouds[0]), -1)
    perplexity = min(30, len(points) / 4)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(points)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.add_subplot()
        names, colors = ("source", "source + gap", "target"), ("#c44e52", "#dd8452", "#4c72b0")
        for name, color, part in zip(names, colors, np.split(plane, 3), strict=True):
            axes.scatter(part[:, 0], part[:, 1], s=6, color=color, label=name, linewidths=0)
        axes.set(xticks=[], yticks=[], title="t-SNE of the text encoder's output")
        axes.legend(markerscale=2, frameon=False)
        figure.savefig(path, dpi=120, format="png")


def _sheet(params: Params, pipeline: Arc2FacePipeline, vectors: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Images without the gap (above) and with it (below), of the same vectors and noise."""
    noises = [seed_of(params.seed, "gap", "noise", number) for number in range(len(vectors))]
    rows = {"without the gap": None, "with the gap": shift}
    return sheet({title: _images(params, pipeline, vectors, noises, part) for title, part in rows.items()})


def _walk(params: Params, pipeline: Arc2FacePipeline, root: Path, shift: np.ndarray) -> np.ndarray:
    """An identity a row: from its prototype (t = 0) to one of its images (t = 1), of the same noise, with the gap."""
    from stages.transfer.arc2face.sampling import slerp

    embeddings, t = SourceEmbeddings(root), np.linspace(0, 1, WALK_STEPS)
    rows, captions = {}, {}
    for identity in sorted(embeddings.shard_of)[:WALKS]:
        mine = embeddings.of(identity).astype(np.float64)
        first, last = (np.tile(end / np.linalg.norm(end), (len(t), 1)) for end in (mine.mean(axis=0), mine[0]))
        noises = [seed_of(params.seed, "gap", "walk", identity)] * len(t)
        title = f"identity {identity}"
        rows[title] = _images(params, pipeline, slerp(first, last, t).astype(np.float32), noises, shift)
        captions[title] = [f"t = {step:.2g}" for step in t]
    return sheet(rows, captions=captions)


def _images(
    params: Params, pipeline: Arc2FacePipeline, vectors: np.ndarray, noises: list[int], shift: np.ndarray | None
) -> list[np.ndarray]:
    """Images [h, w, 3] uint8 of identity vectors [n, d], each of its seed's noise."""
    knobs, part = params.transfer, None if shift is None else torch.from_numpy(shift)
    images = pipeline(
        torch.from_numpy(vectors),
        [torch.Generator().manual_seed(noise) for noise in noises],
        height=knobs.size or None,
        width=knobs.size or None,
        steps=knobs.steps,
        guidance=knobs.guidance,
        shift=part,
        unconditional_shift=part if params.gap.branch == "both" else None,
        decode_slice=knobs.decode_slice,
    )
    return list(images.numpy())
