"""`r2r evaluate`: measure a network on benchmarks, by their official protocols.

In the pipeline it measures data/train/backbone.safetensors on everything under data/benchmarks; with `--backbone` and
`--benchmark` it measures any network on any benchmark, without the pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.evaluate import embeddings, groups, pairs, plots, templates
from stages.evaluate.benchmarks import Benchmark, Groups, Images, Pairs, Templates
from stages.evaluate.embeddings import Network, load_network
from stages.evaluate.metrics import Roc, roc
from stages.evaluate.readers import read_benchmarks
from stages.params import Evaluate, Params
from stages.store import StoreError, replacing

HARDEST = 10  # pairs of each kind on a sheet

Numbers = dict[str, float | int | str]


@dataclass(frozen=True)
class Scored:
    """Scored pairs: what a curve, a histogram and a sheet are drawn from.

    scores: [p] float64, cosines; same: [p] bool; first, second: [p], the image that stands for each side.
    """

    scores: np.ndarray
    same: np.ndarray
    images: Images
    first: np.ndarray
    second: np.ndarray
    curve: Roc


def run(params: Params, root: Path = Path(".")) -> None:
    """Measure the trained backbone on every benchmark of the pipeline; write metrics/evaluate.json and plots/.

    Raises:
        StoreError: no backbone, no benchmark, or one that is broken; nothing has been written then.
    """
    network = load_network(root / "data/train/backbone.safetensors", device=params.evaluate.device)
    benchmarks = read_benchmarks(root / "data/benchmarks")
    numbers, scored = measure(network, benchmarks, params.evaluate)
    draw(root / "plots", scored)
    write_json(root / "metrics/evaluate.json", numbers)


def evaluate_file(
    backbone: Path,
    benchmark: Path,
    pairs: Path | None = None,
    out: Path | None = None,
    *,
    align: bool = True,
    channels: str | None = None,
    params: Evaluate | None = None,
) -> Numbers:
    """Measure any network on any benchmark; print the numbers, and write them to `out`.

    Args:
        backbone: our checkpoint, AdaFace's `.ckpt`, insightface's `.pth`, or an ONNX encoder.
        benchmark: in any distribution that `readers` knows, or a folder of such.
        pairs: `pairs.txt` in LFW's layout, for a zip or folder of images.
        out: a JSON file.
        align: find the face (MTCNN) and warp it, in images that are neither aligned nor have landmarks.
        channels: `rgb` or `bgr`, over what the file says.
        params: the protocols; by default the official ones.

    Raises:
        StoreError: a file that is missing or broken, with what to do.
    """
    params = params or Evaluate()
    network = load_network(backbone, channels, params.device)
    numbers, _ = measure(network, read_benchmarks(benchmark, pairs), params, align=align)
    print(json.dumps(numbers, indent=2))
    if out is not None:
        write_json(out, numbers)
    return numbers


def measure(
    network: Network, benchmarks: Sequence[Benchmark], params: Evaluate, align: bool = True
) -> tuple[Numbers, dict[str, Scored]]:
    """All numbers of the benchmarks, and the scored pairs of each curve, by name.

    Raises:
        StoreError: two benchmarks of one name, or images or embeddings that are broken.
    """
    names = [benchmark.name for benchmark in benchmarks]
    if len(set(names)) < len(names):
        raise StoreError(f"benchmarks of one name among {', '.join(names)}: rename one")
    numbers: Numbers = {}
    scored: dict[str, Scored] = {}
    images = sum(len(part.images) for benchmark in benchmarks for part in parts(benchmark))
    with tqdm(total=images, desc="evaluate", unit=" images") as bar:

        def embed(images: Images) -> embeddings.Embeddings:
            bar.set_postfix_str(benchmark.name)
            return embeddings.embed(
                network, images, flip=params.flip, align=align, batch_size=params.batch_size, bar=bar
            )

        for benchmark in benchmarks:
            try:
                if isinstance(benchmark, Groups):
                    measure_groups(benchmark, embed, params, numbers, scored)
                elif isinstance(benchmark, Templates):
                    measure_templates(benchmark, embed, params, numbers, scored)
                else:
                    measure_pairs(benchmark, benchmark.name, embed, params, numbers, scored)
            except ValueError as error:
                raise StoreError(f"{benchmark.name}: {error}") from error
    numbers["protocol"] = params.protocol
    return numbers, scored


def parts(benchmark: Benchmark) -> Iterator[Pairs | Templates]:
    """The benchmark, or its groups."""
    if isinstance(benchmark, Groups):
        yield from benchmark.groups.values()
    else:
        yield benchmark


Embed = Callable[[Images], embeddings.Embeddings]


def measure_pairs(
    benchmark: Pairs, name: str, embed: Embed, params: Evaluate, numbers: Numbers, scored: dict[str, Scored]
) -> float:
    """Accuracy over the folds, its standard deviation, and the curve's numbers; returns the accuracy in [0, 1]."""
    embedded = embed(benchmark.images)
    vectors = pairs.fuse(embedded.views)
    left, right = vectors[benchmark.first], vectors[benchmark.second]
    accuracy = pairs.accuracy(left, right, benchmark.same, benchmark.folds, params.protocol)
    scores = np.einsum("pd,pd->p", left, right)
    curve = roc(scores, benchmark.same)
    scored[name] = Scored(scores, benchmark.same, benchmark.images, benchmark.first, benchmark.second, curve)
    numbers[name] = percent(accuracy.mean)
    numbers[f"{name}.std"] = percent(accuracy.std)
    add_curve(numbers, name, curve, params.far, curve.tar_at_far)
    if not embedded.found.all():
        numbers[f"{name}.no_face"] = int((~embedded.found).sum())
    return accuracy.mean


def measure_groups(
    benchmark: Groups, embed: Embed, params: Evaluate, numbers: Numbers, scored: dict[str, Scored]
) -> None:
    """Each group's numbers, and the mean, standard deviation and largest gap of their accuracies."""
    accuracies = {
        group: measure_pairs(part, f"{benchmark.name}.{group}", embed, params, numbers, scored)
        for group, part in benchmark.groups.items()
    }
    for name, value in groups.summary(accuracies).items():
        numbers[f"{benchmark.name}.{name}"] = percent(value)


def measure_templates(
    benchmark: Templates, embed: Embed, params: Evaluate, numbers: Numbers, scored: dict[str, Scored]
) -> None:
    """TAR at FAR of the pairs of templates, and the 1:N search where the benchmark has one."""
    name = benchmark.name
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
    scored[name] = Scored(scores, benchmark.same, benchmark.images, left, right, curve)
    numbers[f"{name}.variant"] = str(variant)
    add_curve(numbers, name, curve, params.far, curve.tar_near_far if params.nearest_far else curve.tar_at_far)
    if benchmark.unused:
        numbers[f"{name}.unused"] = benchmark.unused
    if benchmark.search is not None:
        galleries = [
            (vectors[templates.rows_of(ids, gallery[:, 0])], gallery[:, 1]) for gallery in benchmark.search.galleries
        ]
        probes = benchmark.search.probes
        found = templates.identify(
            vectors[templates.rows_of(ids, probes[:, 0])], probes[:, 1], galleries, params.search
        )
        numbers.update({f"{name}.rank{rank}": percent(rate) for rank, rate in found.rank.items()})
        numbers.update({f"{name}.tpir@fpir={power(fpir)}": percent(rate) for fpir, rate in found.tpir.items()})


def add_curve(
    numbers: Numbers, name: str, curve: Roc, fars: Sequence[float], tar: Callable[[float], tuple[float, float]]
) -> None:
    """AUC, EER and TAR at FAR; a FAR finer than one impostor pair cannot be measured and is left out."""
    if curve.genuine and curve.impostors:
        numbers[f"{name}.auc"] = percent(curve.auc())
        numbers[f"{name}.eer"] = percent(curve.eer())
        for far in sorted(fars, reverse=True):
            if far * curve.impostors >= 1:
                numbers[f"{name}.tar@far={power(far)}"] = percent(tar(far)[0])


def percent(share: float) -> float:
    """In percent, two decimals."""
    return round(100 * share, 2)


def power(value: float) -> str:
    """0.01 as `1e-2`."""
    return f"{value:.0e}".replace("e-0", "e-")


def draw(folder: Path, scored: dict[str, Scored]) -> None:
    """Curves, histograms and sheets of all benchmarks; those of benchmarks that are gone are removed."""
    for place in ("roc", "scores", "pairs"):
        for stale in (folder / place).glob("*"):
            if stale.stem not in scored:
                stale.unlink()
    curves = {name: part.curve for name, part in scored.items() if part.curve.genuine and part.curve.impostors}
    for name, curve in curves.items():
        plots.write_roc_csv(folder / "roc" / f"{name}.csv", curve)
    plots.draw_roc(folder / "roc.png", curves)
    plots.draw_det(folder / "det.png", curves)
    for name, part in scored.items():
        plots.write_scores_csv(folder / "scores" / f"{name}.csv", part.scores, part.same)
        plots.draw_scores(folder / "scores" / f"{name}.png", name, part.scores, part.same)
        plots.draw_pairs(folder / "pairs" / f"{name}.png", hardest(part))


def hardest(part: Scored) -> dict[str, list[tuple[np.ndarray, np.ndarray, float]]]:
    """The genuine pairs that score lowest and the impostor pairs that score highest, as the network saw them."""
    order = np.argsort(part.scores, kind="stable")
    chosen = {
        "hardest genuine pairs": order[part.same[order]][:HARDEST],
        "hardest impostor pairs": order[~part.same[order]][::-1][:HARDEST],
    }

    def pictures(side: np.ndarray) -> np.ndarray:
        return embeddings.load(part.images, side.tolist(), align=True)[0]

    return {
        title: list(
            zip(pictures(part.first[rows]), pictures(part.second[rows]), part.scores[rows].tolist(), strict=True)
        )
        for title, rows in chosen.items()
        if len(rows)
    }


def write_json(path: Path, numbers: Numbers) -> None:
    """Flat JSON, indent 2."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(numbers, indent=2) + "\n")
