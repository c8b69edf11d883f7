"""Images of the chosen identities that look like the target domain.

    r2r synthesize

The images of an identity depend on the identity and the knobs only: shard size, processes and the point where a killed
run went on change nothing, not a bit on a CPU. `judge` says how good they are.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from stages.align import Images, rendered, synthesized
from stages.params import Params, check, pick_device
from stages.processes import cores, in_processes
from stages.report.sheets import chosen_identities, sheet
from stages.store import Shard, emptied, encode, fingerprint, is_current, replacing, write_shard
from stages.synthesize.judge import Judge
from stages.transfer import Transfer

ROWS, COLUMNS = 8, 8  # of the sheet


@dataclass(frozen=True)
class Part:
    """What becomes one shard."""

    path: Path
    identities: list[int]
    fingerprint: str


@dataclass(frozen=True)
class Made:
    """One identity's images, encoded, and what tells them apart."""

    columns: dict[str, np.ndarray]
    images: list[bytes]


def run(params: Params, root: Path = Path(".")) -> None:
    """Make `images_per_id` images of each identity chosen in `data/filter.h5`, by the method `params.method`.

    Writes `data/synthesize/00000.h5`, ... of `synthesize.ids_per_shard` identities each, in the order of the filter,
    so that a larger `n_ids` adds shards: identity [n] int64, sample [n] int32, t [n] float32, seed [n] int64, and the
    images; `metrics/synthesize.json`, and `plots/synthesize/sheet.png`. Method `none` makes no images: the folders are
    empty, and the metrics say so.

    Raises:
        ParamsError: a knob that does not fit the method.
        StoreError: something that the method or the judge needs is missing.
    """
    folder, plots = root / "data/synthesize", root / "plots/synthesize"
    if params.method == "none":
        emptied(folder)
        emptied(plots)
        _write_metrics(root, {"images": 0})
        return
    transfer = create_transfer(params, root)
    judge, source = Judge(params, root), rendered(root)
    parts = list(_parts(params, root, folder, transfer))
    for stale in {*folder.glob("*.h5"), *folder.glob(".*.partial")} - {part.path for part in parts}:
        stale.unlink()
    todo = [part for part in parts if not is_current(part.path, part.fingerprint)]
    total, missing = (sum(len(part.identities) for part in some) for some in (parts, todo))
    images = params.images_per_id
    with (
        tqdm(desc="synthesize", unit=" images", total=total * images, initial=(total - missing) * images) as bar,
        closing(_made(params, root, transfer, [identity for part in todo for identity in part.identities])) as made,
    ):
        for part in todo:
            rows = []
            for _ in part.identities:
                rows.append(next(made))
                bar.update(len(rows[-1].images))
            columns = {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}
            write_shard(part.path, columns, [x for row in rows for x in row.images], fingerprint=part.fingerprint)

    generated = synthesized(root)
    judged = chosen_identities(root / "data/filter.h5", params.synthesize.judge_ids)
    _write_metrics(root, _totals(parts) | judge(transfer, judged, source, generated))
    with replacing(plots / "sheet.png") as path:
        Image.fromarray(_sheet(root, source, generated)).save(path, "png")


def create_transfer(params: Params, root: Path = Path("."), device: str | None = None) -> Transfer:
    """The realism-transfer method that the knob `method` names, its data read from `root`."""
    modules = {"arc2face": ("stages.transfer.arc2face.method", "Arc2FaceTransfer")}
    check(
        params.method in modules, f"method is {params.method!r}: it makes no images; one of {', '.join(modules)} does"
    )
    module, name = modules[params.method]
    return getattr(importlib.import_module(module), name)(params, root, device)


def make(transfer: Transfer, codec: str, quality: int, identity: int) -> Made:
    """Make and encode one identity's images."""
    portraits = transfer.portraits(identity)
    columns = {
        "identity": np.full(len(portraits.sample), identity, np.int64),
        "sample": portraits.sample,
        "t": portraits.t,
        "seed": portraits.seed,
    }
    return Made(columns, [encode(image, codec, quality) for image in portraits.images])


def _parts(params: Params, root: Path, folder: Path, transfer: Transfer) -> Iterator[Part]:
    chosen, knobs = chosen_identities(root / "data/filter.h5"), params.synthesize
    for number, start in enumerate(range(0, len(chosen), knobs.ids_per_shard)):
        identities = chosen[start : start + knobs.ids_per_shard]
        origins = [[identity, transfer.origin(identity)] for identity in identities]
        current = fingerprint(origins, knobs.codec, knobs.quality, code=["synthesize/__init__", "transfer"])
        yield Part(folder / f"{number:05}.h5", identities, current)


def _made(params: Params, root: Path, transfer: Transfer, identities: Sequence[int]) -> Generator[Made, None, None]:
    """The identities' images, in their order, from as many processes as asked for."""
    knobs = params.synthesize
    device = pick_device(params.arc2face.device, "arc2face.device")
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    workers = min(knobs.workers or gpus or cores() // params.arc2face.threads, len(identities))
    if workers <= 1:
        return (make(transfer, knobs.codec, knobs.quality, identity) for identity in identities)
    devices = multiprocessing.get_context("spawn").SimpleQueue()
    for number in range(workers):
        devices.put(f"cuda:{number % gpus}" if gpus else None)
    start = partial(_start, params, root, devices)
    return in_processes(_work, identities, workers, knob="synthesize.workers", start=start)


_worker: Any = None


def _start(params: Params, root: Path, devices: Any) -> None:
    """Load the method once a process."""
    global _worker
    _worker = partial(
        make, create_transfer(params, root, devices.get()), params.synthesize.codec, params.synthesize.quality
    )


def _work(identity: int) -> Made:
    return _worker(identity)


def _totals(parts: list[Part]) -> dict[str, float | int]:
    count = size = 0
    t = 0.0
    for part in parts:
        with Shard(part.path) as shard:
            count += len(shard)
            t += float(shard["t"].sum(dtype=np.float64))
        size += part.path.stat().st_size
    return {
        "identities": sum(len(part.identities) for part in parts),
        "images": count,
        "bytes_per_image": round(size / count),
        "t": round(t / count, 4),
    }


def _write_metrics(root: Path, metrics: dict[str, float | int]) -> None:
    with replacing(root / "metrics/synthesize.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n")


def _sheet(root: Path, source: Images, generated: Images) -> np.ndarray:
    """An identity a row: the first of its source images, and the images made of it."""
    rows = {}
    for identity in chosen_identities(root / "data/filter.h5", ROWS):
        first, samples = source.samples(identity)[0], generated.samples(identity)[: COLUMNS - 1]
        made = [generated.read(identity, sample) for sample in samples]
        rows[f"identity {identity}: a source image | generated"] = [source.read(identity, first), *made]
    return sheet(rows, COLUMNS)
