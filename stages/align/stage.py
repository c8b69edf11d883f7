"""Faces to one place: detect five landmarks and warp every image to ArcFace's 112 x 112 template.

    r2r align

Shards `data/align/00000.h5` ... hold the chosen identities, cut by ranges of their numbers. How the images are batched
does not change them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.align.faces import CODE, align_images, detection, detection_seconds, detector
from stages.filter import chosen_identities
from stages.images import Faces, Rows, Shards, read_faces, read_rows, write_rows
from stages.run import Job, by_range, cores, threads
from stages.run import run as run_job
from stages.run.machine import Machine, Work
from stages.store import Shard, encode, fingerprint, write_json

if TYPE_CHECKING:
    from stages.align.knobs import Align
    from stages.params import Params


def run(params: Params, root: Path = Path(".")) -> None:
    """Align samples 0 to `images_per_id` - 1 of the identities that filter chose.

    Shards: identity [n] int64, sample [n] int32, found [n] bool, score [n] float32, landmarks [n, 5, 2] float32 (px of
    the image before the warp; NaN without a face), of mixed identities partner [n] int64 and ratio [n] float64, and n
    encoded 112 x 112 images.

    Raises:
        StoreError: an identity or an image that is not there, or an image that does not decode.
    """
    chosen, knobs = chosen_identities(root / "data/filter.h5"), params.align
    made = params.transfer.makes_images
    faces: Faces = Shards(root / "data/synthesize") if made else read_faces(root / "data/source")
    rows = {
        identity: [row for row in faces.rows(identity) if faces.sample[row] < params.images_per_id]
        for identity in chosen
    }
    made_from = fingerprint(detection(knobs), knobs.missing, knobs.codec, code=("align/stage", *CODE))
    keys = {identity: fingerprint(made_from, faces.digest(mine)) for identity, mine in rows.items()}
    job = Job(
        stage="align",
        folder=root / "data/align",
        parts=by_range(root / "data/align", chosen, keys, knobs.ids_per_shard),
        start=lambda: aligner(faces, rows, knobs),
        write=lambda path, part, results: write_rows(path, results),
        size=lambda identity: len(rows[identity]),
        read=read_rows,
    )
    run_job(job, threads(cores()))
    images = sum(map(len, rows.values()))
    expected = len(chosen) * params.images_per_id
    write_json(root / "metrics/align.json", _metrics([part.path for part in job.parts], len(chosen), images, expected))


def cost(params: Params, root: Path, machine: Machine) -> Work:
    """About how long it takes."""
    images = params.n_ids * params.images_per_id
    side = params.transfer.side if params.transfer.makes_images else params.fetch.source_size
    return Work(images * detection_seconds(params.align, side) / machine.cores, f"{images:,} images")


def aligner(faces: Faces, rows: dict[int, list[int]], align: Align) -> Callable[[int], Rows]:
    """The function that aligns one identity's images."""
    mtcnn = detector(align)

    def one(identity: int) -> Rows:
        mine = rows[identity]
        aligned = align_images([faces.image(row) for row in mine], mtcnn)
        keep = aligned.found if align.missing == "skip" else np.ones(len(mine), bool)
        columns: dict[str, np.ndarray] = {
            "identity": np.full(len(mine), identity, np.int64),
            "sample": faces.sample[np.array(mine, np.int64)].astype(np.int32),
            "found": aligned.found,
            "score": aligned.scores,
            "landmarks": aligned.landmarks,
        }
        columns |= {name: column[mine] for name, column in faces.mixtures._asdict().items()} if faces.mixtures else {}
        images = [encode(image, align.codec) for image in aligned.images[keep]]
        return Rows({name: column[keep] for name, column in columns.items()}, images)

    return one


def _metrics(shards: list[Path], identities: int, images: int, expected: int) -> dict[str, float | int]:
    found = written = seen = 0
    for path in shards:
        with Shard(path) as shard:
            found += int(shard["found"].sum())
            written += len(shard)
            seen += len(np.unique(shard["identity"]))
    return {
        "identities": identities,
        "identities_without_images": identities - seen,
        "images": images,
        "images_not_in_source": expected - images,
        "found": found,
        "missing": images - found,
        "missing_percent": round(100 * (images - found) / max(images, 1), 2),
        "written": written,
    }
