"""What of the embedded world a run needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.store import Entry
from stages.store.cache import Numbers
from stages.world import benchmarks, zips
from stages.world.datasets import Dataset

if TYPE_CHECKING:
    from stages.params import Params

EMBEDDED = "embedded"


def datasets(params: Params, data: Path) -> list[Dataset]:
    """The files and folders to render: none of what is not `embedded`.

    The source has ceil(1.25 n_ids) identities, rounded up to whole zips of a fixed range of identities, so that a
    larger `n_ids` adds zips and changes none.
    """
    knobs, seed, folder = params.fetch, params.fetch.world_seed, data / "benchmarks"
    rendered: list[Dataset] = []
    if knobs.source == EMBEDDED:
        people, images = range(math.ceil(params.n_ids * 1.25)), knobs.source_images_per_id
        rendered += zips.source_zips(
            data / "source", "source", people, images, "raster", knobs.source_size, seed, knobs.source_ids_per_zip
        )
    if knobs.target == EMBEDDED:
        people, images, size = range(knobs.target_ids), knobs.target_images_per_id, knobs.target_size
        rendered.append(zips.population(data / "target/target.zip", "target", people, images, "camera", size, seed))
    if EMBEDDED in knobs.benchmarks:
        size = knobs.target_size
        rendered += [
            *(benchmarks.pair_benchmark(folder, name, knobs.pairs, size, seed) for name in benchmarks.PROTOCOLS),
            benchmarks.pair_benchmark(folder, "random", knobs.pairs, size, seed, "raster"),
            benchmarks.template_benchmark(folder, knobs.templates, size, seed),
            benchmarks.group_benchmark(folder, knobs.group_pairs, size, seed),
        ]
    return rendered


def validation(params: Params, data: Path) -> Dataset:
    """Pairs to choose an epoch by, of people who are in no test."""
    knobs = params.fetch
    return benchmarks.pair_benchmark(
        data / "validation", benchmarks.VALIDATION, knobs.pairs, knobs.target_size, knobs.world_seed
    )


def numbers(parts: Sequence[Dataset], made: Sequence[Entry]) -> Numbers:
    """What was rendered, counted; of benchmarks also the images that were taken again since no face was found."""
    counts: Numbers = {}
    for part, entry in zip(parts, made, strict=True):
        kind = part.path.parent.name
        if kind == "benchmarks":
            counts[f"{part.path.stem}_images"] = entry.numbers["images"]
            counts[f"{part.path.stem}_replaced"] = entry.numbers["discarded"]
        else:
            counts[f"{kind}_identities"] = counts.get(f"{kind}_identities", 0) + len(part.items)
            counts[f"{kind}_images"] = counts.get(f"{kind}_images", 0) + entry.numbers["images"]
    return counts
