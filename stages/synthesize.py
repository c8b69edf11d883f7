"""Images of the chosen identities that look like the target domain.

    r2r synthesize

The images of an identity depend on the identity and the knobs only: shards, processes and the point where a killed run
went on change nothing, not a bit on a CPU. An image that was made once, for whatever other set of identities, is taken
from the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stages.filter import chosen_identities
from stages.images import Rows, Shards, read_faces, read_rows, write_rows
from stages.knobs import Codec, knob, knobs, pick_device
from stages.pictures import save_png, sheet
from stages.run import Executor, Job, by_range, cores, loop, processes
from stages.run import run as run_job
from stages.run.machine import Machine, Work
from stages.store import Shard, emptied, encode, fingerprint, nothing, write_json
from stages.transfer import create

if TYPE_CHECKING:
    from stages.params import Params

ROWS, COLUMNS = 8, 8  # of the sheet


@knobs("synthesize")
class Synthesize:
    """The image shards."""

    codec: Codec = knob("png", "of the images")
    quality: int = knob(95, "of jpeg and webp", ge=1, le=100)
    ids_per_shard: int = knob(64, "numbers of identities that one shard's range spans", ge=1)
    workers: int = knob(
        0, "processes; 0 is one to three a GPU, or one a core (each of transfer.threads) on a CPU", ge=0
    )


def run(params: Params, root: Path = Path(".")) -> None:
    """Make `images_per_id` images of each identity chosen in `data/filter.h5`, by the method `params.method`.

    Writes `data/synthesize/00000.h5`, ... cut by ranges of identity numbers: identity [n] int64, sample [n] int32,
    t [n] float32, seed [n] int64, of mixed identities partner [n] int64 and ratio [n] float64, and the images;
    `metrics/synthesize.json`, and `plots/synthesize/sheet.png`. A method that makes no images leaves the folders empty,
    and the metrics say so.

    Raises:
        StoreError: something that the method needs is missing.
    """
    folder, plots = root / "data/synthesize", root / "plots/synthesize"
    if not params.transfer.makes_images:
        for empty in (folder, plots):
            nothing(empty, f"method {params.method} makes no images")
        write_json(root / "metrics/synthesize.json", {"images": 0})
        return
    knobs, method = params.synthesize, create(params, root)
    chosen = chosen_identities(root / "data/filter.h5")
    encoded = [knobs.codec, None if knobs.codec == "png" else knobs.quality]
    code = ("synthesize", "store/codec")
    keys = {identity: fingerprint(identity, method.origin(identity), encoded, code=code) for identity in chosen}
    job = Job(
        stage="synthesize",
        folder=folder,
        parts=by_range(folder, chosen, keys, knobs.ids_per_shard),
        start=partial(_start, params, root),
        write=lambda path, part, results: write_rows(path, results),
        size=lambda identity: params.images_per_id,
        read=read_rows,
    )
    run_job(job, _executor(params))
    emptied(plots)
    save_png(plots / "sheet.png", _sheet(root))
    write_json(root / "metrics/synthesize.json", _metrics([part.path for part in job.parts], len(chosen)))


def cost(params: Params, root: Path, machine: Machine) -> Work | None:
    """About how long it takes, as the method says."""
    if not params.transfer.makes_images:
        return None
    images = params.n_ids * params.images_per_id
    return Work(images * params.transfer.seconds(root, machine), f"{images:,} images")


def _executor(params: Params) -> Executor:
    """Processes on GPUs in turn, as many on each as the method says, or one a core."""
    device = pick_device(params.transfer.device, "transfer.device")
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    workers = params.synthesize.workers or gpus * params.transfer.a_gpu or max(cores() // params.transfer.threads, 1)
    if workers == 1:
        return loop
    places = [f"cuda:{number % gpus}" if gpus else None for number in range(workers)]
    return processes(workers, "synthesize.workers", places)


def _start(params: Params, root: Path, place: str | None = None) -> Callable[[int], Rows]:
    """The function that makes and encodes one identity's images."""
    method, knobs = create(params, root, place), params.synthesize

    def make(identity: int) -> Rows:
        portraits = method.portraits(identity)
        columns = {
            "identity": np.full(len(portraits.sample), identity, np.int64),
            "sample": portraits.sample,
            "t": portraits.t,
            "seed": portraits.seed,
        }
        columns |= portraits.mixtures._asdict() if portraits.mixtures else {}
        return Rows(columns, [encode(image, knobs.codec, knobs.quality) for image in portraits.images])

    return make


def _metrics(shards: list[Path], identities: int) -> dict[str, float | int]:
    count = size = 0
    t = 0.0
    for path in shards:
        with Shard(path) as shard:
            count += len(shard)
            t += float(shard["t"].sum(dtype=np.float64))
        size += path.stat().st_size
    metrics = {
        "identities": identities,
        "images": count,
        "bytes_per_image": round(size / count),
        "t": round(t / count, 4),
    }
    return {name: value for name, value in metrics.items() if math.isfinite(value)}  # t of a method that has none


def _sheet(root: Path) -> np.ndarray:
    """An identity a row: the first of its source images, and the images made of it."""
    source, made = read_faces(root / "data/source"), Shards(root / "data/synthesize")
    rows = {}
    for identity in chosen_identities(root / "data/filter.h5", ROWS):
        images = [source.image(source.rows(identity)[0])]
        images += [made.image(row) for row in made.rows(identity)[: COLUMNS - 1]]
        rows[f"identity {identity}: a source image | made of it"] = images
    return sheet(rows)
