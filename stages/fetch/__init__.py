"""Source, target and benchmarks: `r2r fetch`.

The embedded world is rendered on the spot: `data/source/*.zip` (raster look), `data/target/target.zip` (camera look)
and `data/benchmarks/`. What stands there and was made from the same parameters, assets and code is kept.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from stages.params import Params, check
from stages.store import replacing


def run(params: Params, root: Path = Path(".")) -> None:
    """Make what is missing of source, target and benchmarks; write `metrics/fetch.json`.

    The source has ceil(1.25 n_ids) identities, rounded up to whole zips of a fixed range of identities, so that a
    larger `n_ids` adds zips and changes none.

    Raises:
        ParamsError: fewer images are rendered than asked for an identity.
        StoreError: a foreign zip in `data/source`, or a rendering process died.
    """
    from stages.world import benchmarks, datasets

    knobs, seed = params.fetch, params.fetch.world_seed
    check(
        knobs.source_images_per_id >= params.images_per_id,
        f"images_per_id is {params.images_per_id}, but only fetch.source_images_per_id = {knobs.source_images_per_id} "
        "images are rendered of an identity: raise it too",
    )
    source = datasets.source_zips(
        root / "data/source",
        "source",
        range(math.ceil(params.n_ids * 1.25)),
        knobs.source_images_per_id,
        "raster",
        knobs.source_size,
        seed,
        knobs.source_ids_per_zip,
    )
    target = datasets.population(
        root / "data/target/target.zip",
        "target",
        range(knobs.target_ids),
        knobs.target_images_per_id,
        "camera",
        knobs.target_size,
        seed,
    )
    folder, size = root / "data/benchmarks", knobs.target_size
    tests = [
        *(benchmarks.pair_benchmark(folder, name, knobs.pairs, size, seed) for name in benchmarks.PROTOCOLS),
        benchmarks.pair_benchmark(folder, "random", knobs.pairs, size, seed, "raster"),
        benchmarks.template_benchmark(folder, knobs.templates, size, seed),
        benchmarks.group_benchmark(folder, knobs.group_pairs, size, seed),
    ]
    datasets.remove_stale(root / "data/source", source)
    datasets.remove_stale(folder, tests)
    datasets.make([*source, target, *tests], knobs.workers)

    metrics = {
        "source_identities": sum(len(dataset.portraits) for dataset in source),
        "source_images": sum(dataset.images for dataset in source),
        "target_identities": len(target.portraits),
        "target_images": target.images,
    }
    for dataset in tests:
        card = json.loads(dataset.card.read_text())
        metrics[f"{dataset.path.stem}_images"] = card["images"]
        metrics[f"{dataset.path.stem}_replaced"] = card["discarded"]
    with replacing(root / "metrics/fetch.json") as partial:
        partial.write_text(json.dumps(metrics, indent=2) + "\n")
