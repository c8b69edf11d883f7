"""Who is in an image, as a vector: embeddings of the source and target images.

    r2r embed

One shard a part of the source (of DigiFace-1M, a zip) and one for the target, so that a larger source only adds shards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stages.align.faces import CODE as ALIGN_CODE
from stages.align.faces import align_images, detection, detection_seconds, detector
from stages.align.warp import SIZE
from stages.embed.encoder import Encoder, runtime
from stages.embed.prototypes import identity_sums, source_shards
from stages.images import Archive, Faces, read_faces
from stages.run import Job, Part, threads
from stages.run import run as run_job
from stages.run.machine import Machine, Work
from stages.store import Shard, StoreError, fingerprint, write_json, write_shard
from stages.store.manifest import check_manifest

if TYPE_CHECKING:
    from stages.params import Params

R100 = 48.4e9  # operations of ArcFace's largest network
SIDE_BY_SIDE = 2  # batches: one is read and aligned while the network sees the other


@dataclass(frozen=True)
class Batch:
    """Rows of a set that the encoder sees together."""

    images: Faces | Archive
    rows: Sequence[int]


@dataclass(frozen=True)
class Seen:
    """What the encoder makes of n images: embeddings [n, d] float32, as they come; whether a face was found [n]."""

    embeddings: np.ndarray
    found: np.ndarray


def run(params: Params, root: Path = Path(".")) -> None:
    """Embed `data/source` and `data/target` into `data/embed`.

    Shards: `source/<part>.h5` (identity [n] int64, sample [n] int32) and `target.h5` (name [n], UTF-8 bytes), each with
    embedding [n, d] float32, unit norm, and norm [n] float32, the length that it had. With `embed.align`, face [n]
    bool too: where none was found, the centre crop was embedded.

    Raises:
        StoreError: no such encoder, an image that does not decode, or whose embedding is zero or not finite.
    """
    knobs, folder = params.embed, root / "data/embed"
    for place in ("source", "target"):
        check_manifest(root / "data" / place)
    source, target = read_faces(root / "data/source"), Archive(root / "data/target/target.zip")
    parts: list[tuple[Path, Faces | Archive, np.ndarray]]
    parts = [(folder / "source" / f"{name}.h5", source, rows) for name, rows in source.parts()]
    parts.append((folder / "target.h5", target, np.arange(len(target))))
    code = ("embed/stage", "embed/encoder", *(ALIGN_CODE if knobs.align else ()))
    encoder = encoder_file(root, knobs.encoder, "embed.encoder")
    made_from = fingerprint(encoder, runtime(), detection(params.align) if knobs.align else None, code=code)

    def batches(images: Faces | Archive, rows: np.ndarray) -> list[Batch]:
        starts = range(0, len(rows), knobs.batch_size)
        return [Batch(images, rows[start : start + knobs.batch_size].tolist()) for start in starts]

    def write(path: Path, part: Part, results: Iterator[Seen]) -> dict[str, float]:
        seen = list(results)
        images, rows = part.items[0].images, [row for batch in part.items for row in batch.rows]
        write_shard(path, _columns(images, rows, seen, params))
        return {"images": len(rows)}

    job = Job(
        stage="embed",
        folder=root / "data/embed",
        parts=[
            Part(path, fingerprint(made_from, images.digest(rows)), batches(images, rows))
            for path, images, rows in parts
        ],
        start=lambda: embedder(params, root),
        write=write,
        size=lambda batch: len(batch.rows),
    )
    run_job(job, threads(SIDE_BY_SIDE))
    write_json(root / "metrics/embed.json", _metrics(root, knobs.align))


def cost(params: Params, root: Path, machine: Machine) -> Work:
    """About how long it takes: detection, where it is asked for, and embedding."""
    images = params.fetch.source_images(params.n_ids) + params.fetch.images_of_target
    each = encoder_seconds(root / params.embed.encoder, machine)
    if params.embed.align:
        each += detection_seconds(params.align, params.fetch.source_size)
    return Work(images * each / machine.cores, f"{images:,} images")


def encoder_file(root: Path, name: str, knob: str) -> Path:
    """The encoder that a knob names.

    Raises:
        StoreError: there is none.
    """
    if not (path := root / name).is_file():
        raise StoreError(f"{path}: no such encoder; set {knob} to an ONNX file")
    return path


def encoder_seconds(path: Path, machine: Machine) -> float:
    """Seconds of a core to embed an image, measured; of ArcFace's R100 where there is no file yet."""
    if not path.is_file():
        return machine.seconds(R100, "cpu") * machine.cores
    encoder, images = Encoder(path), np.zeros((8, SIZE, SIZE, 3), np.uint8)
    encoder.embed(images)
    begin = time.perf_counter()
    encoder.embed(images)
    return (time.perf_counter() - begin) / 8 * machine.cores


def embedder(params: Params, root: Path) -> Callable[[Batch], Seen]:
    """The function that embeds one batch."""
    encoder = Encoder(root / params.embed.encoder)
    mtcnn = detector(params.align) if params.embed.align else None

    def see(batch: Batch) -> Seen:
        images = [batch.images.image(row) for row in batch.rows]
        if mtcnn is None:
            return Seen(encoder.embed([_resized(image) for image in images]), np.ones(len(images), bool))
        aligned = align_images(images, mtcnn)
        return Seen(encoder.embed(aligned.images), aligned.found)

    return see


def _resized(image: np.ndarray) -> np.ndarray:
    if image.shape[:2] == (SIZE, SIZE):
        return image
    shrinks = min(image.shape[:2]) > SIZE
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _columns(images: Faces | Archive, rows: list[int], seen: list[Seen], params: Params) -> dict[str, np.ndarray]:
    embeddings = np.concatenate([some.embeddings for some in seen])
    norms = np.linalg.norm(embeddings, axis=1)
    broken = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(broken):
        raise StoreError(
            f"{images.where(rows[broken[0]])}: its embedding has the norm {norms[broken[0]]} ({len(broken)} such "
            f"images); is {params.embed.encoder} the right encoder?"
        )
    columns: dict[str, np.ndarray]
    if isinstance(images, Faces):
        columns = {"identity": images.identity[rows], "sample": images.sample[rows].astype(np.int32)}
    else:
        columns = {"name": np.array([images.names[row].encode() for row in rows])}
    columns |= {"embedding": embeddings / norms[:, None], "norm": norms}
    return columns | ({"face": np.concatenate([some.found for some in seen])} if params.embed.align else {})


def _metrics(root: Path, aligned: bool) -> dict[str, float | int]:
    source, target = source_shards(root), [root / "data/embed/target.h5"]
    identities, sums, counts = identity_sums(source)
    lengths = np.linalg.norm(sums.astype(np.float64), axis=1)
    total = np.linalg.norm((sums / lengths[:, None]).sum(0))
    pairs = max(len(identities) * (len(identities) - 1), 1)
    metrics = {
        "identities": len(identities),
        "source_images": int(counts.sum()),
        "target_images": len(_column(target, "norm")),
        "dimension": sums.shape[1],
        "source_norm": round(float(_column(source, "norm").mean(dtype=np.float64)), 4),
        "target_norm": round(float(_column(target, "norm").mean(dtype=np.float64)), 4),
        "genuine_cosine": round(float(lengths.sum() / counts.sum()), 4),
        "impostor_cosine": round(float((total**2 - len(identities)) / pairs), 4),
    }
    if aligned:
        metrics["source_without_face"] = int((~_column(source, "face")).sum())
        metrics["target_without_face"] = int((~_column(target, "face")).sum())
    return metrics


def _column(shards: list[Path], name: str) -> np.ndarray:
    parts = []
    for path in shards:
        with Shard(path) as shard:
            parts.append(shard[name])
    return np.concatenate(parts)
