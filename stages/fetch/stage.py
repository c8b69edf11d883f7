"""Source, target, benchmarks and weights: `r2r fetch`.

What the knobs call `embedded` is rendered on the spot: `data/source/*.zip` (raster look), `data/target/target.zip`
(camera look) and `data/benchmarks/`. The rest is official (`catalogue.yaml`): its publishers, a mirror or a folder give
it, into the same places, and the weights into `data/weights/`. What stands there and is right is kept.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from stages.fetch import official
from stages.fetch.catalogue import Entry, load
from stages.fetch.digiface import Source
from stages.fetch.images import ImageArchive
from stages.fetch.official import EMBEDDED
from stages.knobs import check
from stages.store import replacing

Metrics = dict[str, int]


def run(params: Params, root: Path = Path(".")) -> None:
    """Make or get what is missing of source, target, benchmarks and weights; write `metrics/fetch.json`.

    Raises:
        ParamsError: fewer identities than asked for, or a licence that is not accepted.
        StoreError: a foreign zip in `data/source`, a rendering process that died, a file that is wrong or that no place
            gives, or one that only the user can get.
    """
    knobs, data = params.fetch, root / "data"
    entries = official.wanted(knobs)
    official.get(entries, knobs, data)
    official.remove_stale(entries, data)
    (data / "weights").mkdir(parents=True, exist_ok=True)
    metrics = _render(params, data) | _count(params, entries, data)
    with replacing(root / "metrics/fetch.json") as partial:
        partial.write_text(json.dumps(metrics, indent=2) + "\n")


def get(names: list[str], params: Params, root: Path = Path(".")) -> None:
    """Get entries of the catalogue by name, beside the pipeline: training sets to compare with, weights to try.

    Raises:
        ParamsError: no such entry, or a licence that is not accepted.
        StoreError: as `run`.
    """
    entries = load()
    for name in names:
        check(name in entries, f"{name}: not in the catalogue; {', '.join(entries)} are")
    official.get([entries[name] for name in names], params.fetch, root / "data")


def _render(params: Params, data: Path) -> Metrics:
    """Render what is `embedded`.

    The source has ceil(1.25 n_ids) identities, rounded up to whole zips of a fixed range of identities, so that a
    larger `n_ids` adds zips and changes none.
    """
    from stages.world import benchmarks, datasets

    knobs, seed = params.fetch, params.fetch.world_seed
    source, target, tests, metrics = [], [], [], {}
    if knobs.source == EMBEDDED:
        source = datasets.source_zips(
            data / "source",
            "source",
            range(math.ceil(params.n_ids * 1.25)),
            knobs.source_images_per_id,
            "raster",
            knobs.source_size,
            seed,
            knobs.source_ids_per_zip,
        )
        datasets.remove_stale(data / "source", source)
        metrics["source_identities"] = sum(len(dataset.portraits) for dataset in source)
        metrics["source_images"] = sum(dataset.images for dataset in source)
    if knobs.target == EMBEDDED:
        people, images, size = range(knobs.target_ids), knobs.target_images_per_id, knobs.target_size
        target = [datasets.population(data / "target/target.zip", "target", people, images, "camera", size, seed)]
        metrics["target_identities"] = len(target[0].portraits)
        metrics["target_images"] = target[0].images
    folder = data / "benchmarks"
    if EMBEDDED in knobs.benchmarks:
        size = knobs.target_size
        tests = [
            *(benchmarks.pair_benchmark(folder, name, knobs.pairs, size, seed) for name in benchmarks.PROTOCOLS),
            benchmarks.pair_benchmark(folder, "random", knobs.pairs, size, seed, "raster"),
            benchmarks.template_benchmark(folder, knobs.templates, size, seed),
            benchmarks.group_benchmark(folder, knobs.group_pairs, size, seed),
        ]
    datasets.remove_stale(folder, tests)
    datasets.make([*source, *target, *tests], knobs.workers)
    for dataset in tests:
        card = json.loads(dataset.card.read_text())
        metrics[f"{dataset.path.stem}_images"] = card["images"]
        metrics[f"{dataset.path.stem}_replaced"] = card["discarded"]
    return metrics


def _count(params: Params, entries: list[Entry], data: Path) -> Metrics:
    """Look through what is official, and count it."""
    kinds = {entry.kind for entry in entries}
    metrics: Metrics = {}
    if "source" in kinds:
        metrics |= official.survey_source(data / "source", params.fetch.parallel)
        source = Source(data / "source")
        check(
            params.n_ids <= len(source.identities),
            f"n_ids is {params.n_ids}, but {params.fetch.source} has {len(source.identities)} identities",
        )
        metrics["source_identities"] = len(source.identities)
        metrics["source_identities_missing"] = source.missing_identities
        metrics["source_images"] = sum(len(source.of_zip(path)) for path in source.zips)
        metrics["source_images_missing"] = source.missing_images
    if "target" in kinds:
        metrics["target_images"] = len(ImageArchive(data / "target/target.zip"))
    for entry in entries:
        if entry.kind in ("weights", "benchmark"):
            metrics[f"{entry.name}_bytes"] = sum((data / file.path).stat().st_size for file in entry.files)
    return metrics
