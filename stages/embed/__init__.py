"""Who is in an image, as a vector: embeddings of the source and target images.

    r2r embed

One shard a source zip and one for the target, so that a larger source only adds shards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from stages.align import align_images, detector
from stages.embed.encoder import SIZE, Encoder
from stages.fetch.digiface import Source
from stages.fetch.images import ImageArchive
from stages.params import Params
from stages.store import Shard, StoreError, decode, fingerprint, is_current, replacing, write_shard

__all__ = ["Encoder", "identity_sums", "run"]

# Decoded images of any sizes -> [n, 112, 112, 3] uint8 RGB, and which have a face [n] bool.
Prepare = Callable[[list[np.ndarray]], tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Batch:
    """What becomes one shard."""

    shard: Path
    names: list[str]  # of the n images, for messages
    read: Callable[[int], bytes]  # the i-th image, encoded
    columns: dict[str, np.ndarray]  # that tell which image a row is
    fingerprint: str


def run(params: Params, root: Path = Path(".")) -> None:
    """Embed `data/source` and `data/target` into `data/embed`.

    Shards: `source/<zip>.h5` (identity [n] int64, sample [n] int32) and `target.h5` (name [n], UTF-8 bytes), each with
    embedding [n, d] float32, unit norm, and norm [n] float32, the length that it had. With `embed.align`, face [n]
    bool too: where none was found, the centre crop was embedded.

    Raises:
        StoreError: an image that does not decode, or whose embedding is zero or not finite.
    """
    encoder = Encoder(root / params.embed.encoder)
    prepare = _aligner(params) if params.embed.align else _resize
    folder = root / "data/embed"
    batches = [*_source(params, root, folder), _target(params, root, folder)]
    for stale in {*folder.rglob("*.h5")} - {batch.shard for batch in batches}:
        stale.unlink()
    todo = [batch for batch in batches if not is_current(batch.shard, batch.fingerprint)]
    total = sum(len(batch.names) for batch in batches)
    with tqdm(desc="embed", unit=" images", total=total, initial=total - sum(len(b.names) for b in todo)) as bar:
        for batch in todo:
            columns = batch.columns | _embed(batch, encoder, prepare, params, bar)
            write_shard(batch.shard, columns, fingerprint=batch.fingerprint)
    with replacing(root / "metrics/embed.json") as path:
        path.write_text(json.dumps(_metrics(folder, encoder.dimension, params.embed.align), indent=2) + "\n")


def identity_sums(shards: Iterable[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum each identity's unit embeddings; one shard at a time is in memory.

    A sum's direction is the identity's prototype, the normalised mean; its length is the sum of the cosines between
    the prototype and the identity's images.

    Returns:
        identities [m] int64, rising; sums [m, d] float32; images of each identity [m] int64.

    Raises:
        StoreError: no shards, or an identity in two of them.
    """
    parts = []
    for path in sorted(shards):
        with Shard(path) as shard:
            identities, rows = np.unique(shard["identity"], return_inverse=True)
            embeddings = shard["embedding"]
        order = np.argsort(rows, kind="stable")
        counts = np.bincount(rows)
        sums = np.add.reduceat(embeddings[order], np.cumsum(counts) - counts, axis=0, dtype=np.float64)
        parts.append((identities, sums.astype(np.float32), counts))
    if not parts:
        raise StoreError("data/embed/source: no shards; run `r2r embed` first")
    identities, sums, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(identities, kind="stable")
    identities = identities[order]
    twice = identities[1:][identities[1:] == identities[:-1]]
    if len(twice):
        raise StoreError(f"identity {twice[0]} is in two source zips; an identity's images stand in one")
    return identities, sums[order], counts[order]


def _source(params: Params, root: Path, folder: Path) -> list[Batch]:
    source = Source(root / "data/source")
    batches = []
    for path in source.zips:
        keys = source.of_zip(path)
        identity, sample = np.array(keys, np.int64).reshape(-1, 2).T
        batches.append(
            Batch(
                shard=folder / "source" / f"{path.stem}.h5",
                names=[f"{path.name}: {identity}/{sample}.png" for identity, sample in keys],
                read=lambda row, keys=keys: source.encoded(*keys[row]),  # type: ignore[misc]
                columns={"identity": identity, "sample": sample.astype(np.int32)},
                fingerprint=_fingerprint(params, root, source.digest(path)),
            )
        )
    return batches


def _target(params: Params, root: Path, folder: Path) -> Batch:
    archive = ImageArchive(root / "data/target/target.zip")
    return Batch(
        shard=folder / "target.h5",
        names=[f"target.zip: {name}" for name in archive.names],
        read=lambda row: archive.encoded(archive.names[row]),
        columns={"name": np.array([name.encode() for name in archive.names])},
        fingerprint=_fingerprint(params, root, archive.digest()),
    )


def _fingerprint(params: Params, root: Path, digest: str) -> str:
    align = params.align if params.embed.align else None
    code = ["embed", "align"] if params.embed.align else ["embed"]
    return fingerprint(digest, root / params.embed.encoder, align, code=code)


def _embed(batch: Batch, encoder: Encoder, prepare: Prepare, params: Params, bar: tqdm) -> dict[str, np.ndarray]:
    count, step = len(batch.names), params.embed.batch_size
    embeddings, found = np.empty((count, encoder.dimension), np.float32), np.ones(count, bool)

    def images(start: int) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]:
        rows = range(start, min(start + step, count))
        return prepare([decode(batch.read(row), batch.names[row]) for row in rows])

    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(images, 0)
        for start in range(0, count, step):
            current, found[start : start + step] = following.result()
            following = ahead.submit(images, start + step)
            embeddings[start : start + step] = encoder.embed(current)
            bar.update(len(current))
    norms = np.linalg.norm(embeddings, axis=1)
    broken = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(broken):
        raise StoreError(
            f"{batch.names[broken[0]]}: its embedding has the norm {norms[broken[0]]} ({len(broken)} such images); "
            f"is {params.embed.encoder} the right encoder?"
        )
    columns = {"embedding": embeddings / norms[:, None], "norm": norms}
    return columns | ({"face": found} if params.embed.align else {})


def _aligner(params: Params) -> Prepare:
    mtcnn = detector(params.align)

    def align(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        aligned = align_images(images, mtcnn)
        return aligned.images, aligned.found

    return align


def _resize(images: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    return [_resized(image) for image in images], np.ones(len(images), bool)


def _resized(image: np.ndarray) -> np.ndarray:
    if image.shape[:2] == (SIZE, SIZE):
        return image
    shrinks = min(image.shape[:2]) > SIZE
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _metrics(folder: Path, dimension: int, aligned: bool) -> dict[str, float | int]:
    source, target = sorted(folder.glob("source/*.h5")), [folder / "target.h5"]
    identities, sums, counts = identity_sums(source)
    lengths = np.linalg.norm(sums.astype(np.float64), axis=1)
    total = np.linalg.norm((sums / lengths[:, None]).sum(0))
    pairs = max(len(identities) * (len(identities) - 1), 1)
    metrics = {
        "identities": len(identities),
        "source_images": int(counts.sum()),
        "target_images": len(_column(target, "norm")),
        "dimension": dimension,
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
