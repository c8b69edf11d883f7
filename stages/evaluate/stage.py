"""Measure a network on benchmarks, by their official protocols.

    r2r evaluate
    r2r evaluate --backbone NETWORK --benchmark BENCHMARK

In the pipeline it measures data/train/backbone.safetensors on everything under data/benchmarks; with `--backbone` and
`--benchmark` it measures any network on any benchmark, without the pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from stages.align.knobs import Align
from stages.evaluate import embeddings, groups, intervals, pairs, plots, templates
from stages.evaluate.benchmarks import Benchmark, Groups, Images, Pairs, ProtocolError, Templates
from stages.evaluate.embeddings import Network, load_network
from stages.evaluate.knobs import Evaluate
from stages.evaluate.metrics import Roc, roc
from stages.evaluate.readers import read_benchmarks
from stages.evaluate.results import KEYS, Numbers, Row, flatten, percent, power
from stages.store import write_json
from stages.store.manifest import check_manifest

if TYPE_CHECKING:
    from stages.params import Params

HARDEST = 10  # pairs of each kind on a sheet
VALIDATION_FAR = 1e-3  # of insightface's ten-fold report


@dataclass(frozen=True)
class Scored:
    """Scored pairs: what a curve, a histogram and a sheet are drawn from.

    scores: [p] float64, cosines; same: [p] bool; first, second: [p], the image that stands for each side; folds: of
    benchmarks that have them.
    """

    scores: np.ndarray
    same: np.ndarray
    images: Images
    first: np.ndarray
    second: np.ndarray
    curve: Roc
    folds: pairs.Accuracy | None = None


Embed = Callable[[Images], embeddings.Embeddings]
Found = tuple[list[Row], dict[str, Scored]]


def run(params: Params, root: Path = Path(".")) -> None:
    """Measure the trained backbone on every benchmark of the pipeline; write metrics/evaluate.json and plots/.

    Raises:
        StoreError: no backbone, no benchmark, or one that is broken; nothing has been written then.
    """
    network = load_network(root / "data/train/backbone.safetensors", device=params.evaluate.device)
    check_manifest(root / "data/benchmarks")
    benchmarks = read_benchmarks(root / "data/benchmarks")
    rows, scored = measure(network, benchmarks, params.evaluate, params.align)
    numbers = flatten(rows, params.evaluate.protocol)
    draw(root / "plots", scored, params.align)
    write_json(root / "metrics/evaluate.json", numbers)


def evaluate_file(
    backbone: Path,
    benchmark: Path,
    pairs: Path | None = None,
    out: Path | None = None,
    *,
    params: Evaluate,
    align: Align | None,
    channels: str | None = None,
) -> Numbers:
    """Measure any network on any benchmark; print the numbers, and write them to `out`.

    Args:
        backbone: our checkpoint, AdaFace's `.ckpt`, insightface's `.pth`, or an ONNX encoder.
        benchmark: in any distribution that `readers` knows, or a folder of such.
        pairs: `pairs.txt` in LFW's layout, for a zip or folder of images.
        out: a JSON file.
        params: the protocols.
        align: how a face is found in images that are neither aligned nor have landmarks; None crops their centre.
        channels: `rgb` or `bgr`, over what the file says.

    Raises:
        ParamsError: `channels` is something else.
        StoreError: a file that is missing or broken, with what to do.
    """
    network = load_network(backbone, channels, params.device)
    rows, _ = measure(network, read_benchmarks(benchmark, pairs), params, align)
    numbers = flatten(rows, params.protocol)
    print(json.dumps(numbers, indent=2))
    if out is not None:
        write_json(out, numbers)
    return numbers


def measure(network: Network, benchmarks: Sequence[Benchmark], params: Evaluate, align: Align | None) -> Found:
    """The rows of the benchmarks, and the scored pairs of each curve, by name.

    Raises:
        ProtocolError: two benchmarks of one name, or one that its protocol cannot be measured on.
        StoreError: images or embeddings that are broken.
    """
    names = [benchmark.name for benchmark in benchmarks]
    if len(set(names)) < len(names):
        raise ProtocolError(f"benchmarks of one name among {', '.join(names)}: rename one")
    rows: list[Row] = []
    scored: dict[str, Scored] = {}
    images = sum(len(part.images) for benchmark in benchmarks for part in parts(benchmark))
    with tqdm(total=images, desc="evaluate", unit=" images") as bar:

        def embed(images: Images) -> embeddings.Embeddings:
            return embeddings.embed(
                network, images, flip=params.flip, align=align, batch_size=params.batch_size, bar=bar
            )

        for benchmark in benchmarks:
            bar.set_postfix_str(benchmark.name)
            try:
                more_rows, more_scored = _measure_one(benchmark, embed, params)
            except ProtocolError as error:
                raise ProtocolError(f"{benchmark.name}: {error}") from error
            rows += more_rows
            scored |= more_scored
    return rows, scored


def parts(benchmark: Benchmark) -> Iterator[Pairs | Templates]:
    """The benchmark, or its groups."""
    if isinstance(benchmark, Groups):
        yield from benchmark.groups.values()
    else:
        yield benchmark


def _measure_one(benchmark: Benchmark, embed: Embed, params: Evaluate) -> Found:
    if isinstance(benchmark, Groups):
        return measure_groups(benchmark, embed, params)
    row, scored = (
        measure_templates(benchmark, embed, params)
        if isinstance(benchmark, Templates)
        else measure_pairs(benchmark, benchmark.name, embed, params)
    )
    return [row], {row.name: scored}


def measure_pairs(benchmark: Pairs, name: str, embed: Embed, params: Evaluate) -> tuple[Row, Scored]:
    """Accuracy over the folds, its standard deviation, and the curve's numbers."""
    embedded = embed(benchmark.images)
    vectors = pairs.fuse(embedded.views)
    left, right = vectors[benchmark.first], vectors[benchmark.second]
    accuracy = pairs.accuracy(left, right, benchmark.same, benchmark.folds)
    scores = np.einsum("pd,pd->p", left, right)
    curve = roc(scores, benchmark.same)
    row = Row(name, percent(accuracy.mean), std=percent(accuracy.std))
    add_interval(row, "accuracy", intervals.share(accuracy.mean, len(scores)))
    add_curve(row, curve, params.far, curve.tar_at_far)
    val = pairs.validation(left, right, benchmark.same, benchmark.folds, VALIDATION_FAR)
    if val is not None:
        row.val[VALIDATION_FAR] = percent(val)
    row.no_face = int((~embedded.found).sum()) or None
    return row, Scored(scores, benchmark.same, benchmark.images, benchmark.first, benchmark.second, curve, accuracy)


def measure_groups(benchmark: Groups, embed: Embed, params: Evaluate) -> Found:
    """Each group's numbers, and the mean, standard deviation and largest gap of their accuracies."""
    rows, scored, accuracies = [], {}, {}
    for group, part in benchmark.groups.items():
        row, pictured = measure_pairs(part, f"{benchmark.name}.{group}", embed, params)
        assert pictured.folds is not None
        accuracies[group] = pictured.folds.mean, len(pictured.same)
        rows.append(row)
        scored[row.name] = pictured
    found = groups.summary({group: accuracy for group, (accuracy, _) in accuracies.items()})
    mean, std, gap = (percent(found[name]) for name in ("mean", "std", "gap"))
    summary = Row(benchmark.name, mean=mean, std=std, gap=gap)
    add_interval(summary, "mean", intervals.mean(accuracies))
    add_interval(summary, "gap", intervals.gap(accuracies))
    return [*rows, summary], scored


def measure_templates(benchmark: Templates, embed: Embed, params: Evaluate) -> tuple[Row, Scored]:
    """TAR at FAR of the pairs of templates, and the 1:N search where the benchmark has one."""
    variant = templates.Variant(params.norm, params.detector, params.flip)
    ids, vectors = templates.pool(
        templates.contributions(embed(benchmark.images).views, benchmark.detector_scores, variant),
        benchmark.image,
        benchmark.template,
        benchmark.media,
    )
    scores = templates.scores(ids, vectors, benchmark.first, benchmark.second)
    curve = roc(scores, benchmark.same)
    image_of = benchmark.image[np.unique(benchmark.template, return_index=True)[1]]
    left, right = (image_of[templates.rows_of(ids, side)] for side in (benchmark.first, benchmark.second))
    row = Row(benchmark.name, variant=str(variant), unused=benchmark.unused or None)
    add_curve(row, curve, params.far, curve.tar_near_far if params.nearest_far else curve.tar_at_far)
    if benchmark.search is not None:
        galleries = [
            (vectors[templates.rows_of(ids, gallery[:, 0])], gallery[:, 1]) for gallery in benchmark.search.galleries
        ]
        probes = benchmark.search.probes
        found = templates.identify(
            vectors[templates.rows_of(ids, probes[:, 0])], probes[:, 1], galleries, params.search
        )
        row.rank = {rank: percent(rate) for rank, rate in found.rank.items()}
        row.tpir = {fpir: percent(rate) for fpir, rate in found.tpir.items()}
    return row, Scored(scores, benchmark.same, benchmark.images, left, right, curve)


def add_curve(row: Row, curve: Roc, fars: Sequence[float], tar: Callable[[float], tuple[float, float]]) -> None:
    """AUC, EER and TAR at FAR; a FAR finer than one impostor pair cannot be measured and is left out."""
    if curve.genuine and curve.impostors:
        row.auc, row.eer = percent(curve.auc()), percent(curve.eer())
        measured = [far for far in sorted(fars, reverse=True) if far * curve.impostors >= 1]
        add_interval(row, "auc", intervals.auc(curve))
        for far in measured:
            rate, threshold = tar(far)
            row.tar[far] = percent(rate)
            add_interval(row, f"{KEYS['tar']}{power(far)}", intervals.tar(curve, threshold))


def add_interval(row: Row, number: str, interval: intervals.Interval) -> None:
    """The 95 % confidence interval of one of the row's numbers."""
    row.intervals[number] = percent(interval[0]), percent(interval[1])


def draw(folder: Path, scored: dict[str, Scored], align: Align | None) -> None:
    """Curves, histograms and sheets of all benchmarks; those of benchmarks that are gone are removed."""
    for place in ("roc", "folds", "scores", "pairs"):
        for stale in (folder / place).glob("*"):
            if stale.stem not in scored:
                stale.unlink()
    curves = {name: part.curve for name, part in scored.items() if part.curve.genuine and part.curve.impostors}
    for name, curve in curves.items():
        plots.write_roc_csv(folder / "roc" / f"{name}.csv", curve)
    plots.draw_roc(folder / "roc.png", curves)
    plots.draw_det(folder / "det.png", curves)
    for name, part in scored.items():
        if part.folds is not None:
            plots.write_folds_csv(folder / "folds" / f"{name}.csv", part.folds)
        plots.write_scores_csv(folder / "scores" / f"{name}.csv", part.scores, part.same)
        plots.draw_scores(folder / "scores" / f"{name}.png", name, part.scores, part.same)
        plots.draw_pairs(folder / "pairs" / f"{name}.png", hardest(part, align))


def hardest(part: Scored, align: Align | None) -> dict[str, list[tuple[np.ndarray, np.ndarray, float]]]:
    """The genuine pairs that score lowest and the impostor pairs that score highest, as the network saw them."""
    order = np.argsort(part.scores, kind="stable")
    chosen = {
        "hardest genuine pairs": order[part.same[order]][:HARDEST],
        "hardest impostor pairs": order[~part.same[order]][::-1][:HARDEST],
    }

    def pictures(side: np.ndarray) -> np.ndarray:
        return embeddings.load(part.images, side.tolist(), align)[0]

    return {
        title: list(
            zip(pictures(part.first[rows]), pictures(part.second[rows]), part.scores[rows].tolist(), strict=True)
        )
        for title, rows in chosen.items()
        if len(rows)
    }
