"""Faces to one place: detect five landmarks and warp every image to ArcFace's 112 x 112 template.

    r2r align

Shards `data/align/00000.h5` ... hold the chosen identities in filter's order, `align.ids_per_shard` each. How the
images are batched does not change them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from stages.align.mtcnn import MTCNN
from stages.align.warp import SIZE, centre_crop, similarity, warp
from stages.fetch.digiface import Source
from stages.params import Align, Params, pick_device
from stages.store import Shard, StoreError, decode, encode, fingerprint, is_current, replacing, write_shard

OPEN = 8  # shards of synthesize at a time


@dataclass(frozen=True)
class Aligned:
    """n images brought to the template; where no face was found, the image is the centre crop.

    images: [n, 112, 112, 3] uint8 RGB; found: [n] bool; scores: [n] float32, 0 without a face; landmarks: [n, 5, 2]
    float32 px of the image as it was, NaN without a face.
    """

    images: np.ndarray
    found: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray


def detector(align: Align) -> MTCNN:
    """The detector with a run's parameters."""
    return MTCNN(align.thresholds, align.factor, align.min_face, pick_device(align.device, "align.device"))


def align_images(images: Sequence[np.ndarray], mtcnn: MTCNN) -> Aligned:
    """Warp the largest face of every image to the template.

    Args:
        images: [h, w, 3] uint8 RGB each, of any sizes.
        mtcnn: the detector.
    """
    n = len(images)
    aligned = Aligned(
        np.empty((n, SIZE, SIZE, 3), np.uint8),
        np.zeros(n, bool),
        np.zeros(n, np.float32),
        np.full((n, 5, 2), np.nan, np.float32),
    )
    for row, (image, faces) in enumerate(zip(images, mtcnn.detect(images), strict=True)):
        if len(faces):
            aligned.found[row], aligned.scores[row], aligned.landmarks[row] = True, faces.scores[0], faces.landmarks[0]
            aligned.images[row] = warp(image, similarity(faces.landmarks[:1])[0])
        else:
            aligned.images[row] = centre_crop(image)
    return aligned


@dataclass(frozen=True)
class Images:
    """The images that a method hands to this stage."""

    samples: Callable[[int], list[int]]  # identity -> its sample numbers, rising
    read: Callable[[int, int], np.ndarray]  # identity, sample -> [h, w, 3] uint8 RGB
    digest: Callable[[Iterable[int]], list[str]]  # identities -> what the files that hold them contain


def rendered(root: Path) -> Images:
    """Method `none`: the source images as they are."""
    source = Source(root / "data/source")
    zips = {identity: path for path in source.zips for identity, _ in source.of_zip(path)}

    def read(identity: int, sample: int) -> np.ndarray:
        return decode(source.encoded(identity, sample), f"{zips[identity]}, member {identity}/{sample}.png")

    def digest(identities: Iterable[int]) -> list[str]:
        return [source.digest(path) for path in sorted({zips[identity] for identity in identities})]

    return Images(source.samples, read, digest)


def synthesized(root: Path) -> Images:
    """A method that makes images: the shards of `data/synthesize`."""
    folder = root / "data/synthesize"
    fingerprints: dict[Path, str] = {}
    places: dict[int, tuple[Path, dict[int, int]]] = {}  # identity -> its shard, and sample -> row there
    for path in sorted(folder.glob("*.h5")):
        with Shard(path) as shard:
            fingerprints[path] = shard.fingerprint
            rows = zip(shard["identity"].tolist(), shard["sample"].tolist(), strict=True)
            for row, (identity, sample) in enumerate(rows):
                places.setdefault(identity, (path, {}))[1][sample] = row
    opened = lru_cache(OPEN)(Shard)

    def place(identity: int) -> tuple[Path, dict[int, int]]:
        if identity not in places:
            raise StoreError(f"{folder}: no images of identity {identity}; run `r2r synthesize` first")
        return places[identity]

    def samples(identity: int) -> list[int]:
        return sorted(place(identity)[1])

    def read(identity: int, sample: int) -> np.ndarray:
        path, rows = place(identity)
        return opened(path).image(rows[sample])

    def digest(identities: Iterable[int]) -> list[str]:
        return [fingerprints[path] for path in sorted({place(identity)[0] for identity in identities})]

    return Images(samples, read, digest)


def run(params: Params, root: Path = Path(".")) -> None:
    """Align samples 0 to `images_per_id` - 1 of the identities that filter chose.

    Shards: identity [n] int64, sample [n] int32, found [n] bool, score [n] float32, landmarks [n, 5, 2] float32 (px of
    the image before the warp; NaN without a face), and n encoded 112 x 112 images.

    Raises:
        StoreError: an identity or an image that is not there, or an image that does not decode.
    """
    with Shard(root / "data/filter.h5") as shard:
        chosen = shard["identity"][shard["chosen"]].tolist()
    images = rendered(root) if params.method == "none" else synthesized(root)
    folder, step = root / "data/align", params.align.ids_per_shard
    parts = {folder / f"{i // step:05d}.h5": chosen[i : i + step] for i in range(0, len(chosen), step)}
    rows = {path: _rows(images, identities, params.images_per_id) for path, identities in parts.items()}
    current = {path: _fingerprint(params, images, identities) for path, identities in parts.items()}
    for stale in {*folder.glob("*.h5"), *folder.glob(".*.partial")} - parts.keys():
        stale.unlink()
    todo = [path for path in parts if not is_current(path, current[path])]

    total = sum(map(len, rows.values()))
    done = total - sum(len(rows[path]) for path in todo)
    mtcnn = detector(params.align)
    # Batches side by side, each on one thread: how torch shares an operation out would show in its last bits.
    workers = ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    with tqdm(desc="align", unit=" images", total=total, initial=done) as bar, workers:
        for path in todo:
            columns, encoded = _align(rows[path], images, mtcnn, params.align, workers, bar)
            write_shard(path, columns, encoded, fingerprint=current[path])
    with replacing(root / "metrics/align.json") as path:
        path.write_text(json.dumps(_metrics(parts, total, len(chosen) * params.images_per_id), indent=2) + "\n")


def _rows(images: Images, identities: Iterable[int], images_per_id: int) -> list[tuple[int, int]]:
    return [(identity, k) for identity in identities for k in images.samples(identity) if k < images_per_id]


def _fingerprint(params: Params, images: Images, identities: list[int]) -> str:
    aside = ("batch_size", "ids_per_shard", "device")  # they change no image
    knobs = {name: value for name, value in asdict(params.align).items() if name not in aside}
    return fingerprint(identities, params.images_per_id, knobs, images.digest(identities), code=["align"])


def _align(
    rows: list[tuple[int, int]], images: Images, mtcnn: MTCNN, align: Align, workers: ThreadPoolExecutor, bar: tqdm
) -> tuple[dict[str, np.ndarray], list[bytes]]:
    def batch(start: int) -> tuple[dict[str, np.ndarray], list[bytes]]:
        part = rows[start : start + align.batch_size]
        aligned = align_images([images.read(*row) for row in part], mtcnn)
        keep = aligned.found if align.missing == "skip" else np.ones(len(part), bool)
        columns = {name: column[keep] for name, column in _columns(part, aligned).items()}
        bar.update(len(part))
        return columns, [encode(image, align.codec) for image in aligned.images[keep]]

    parts = list(workers.map(batch, range(0, max(len(rows), 1), align.batch_size)))
    columns = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    return columns, [image for _, encoded in parts for image in encoded]


def _columns(rows: list[tuple[int, int]], aligned: Aligned) -> dict[str, np.ndarray]:
    identity, sample = np.array(rows, np.int64).reshape(-1, 2).T
    return {
        "identity": identity,
        "sample": sample.astype(np.int32),
        "found": aligned.found,
        "score": aligned.scores,
        "landmarks": aligned.landmarks,
    }


def _metrics(parts: dict[Path, list[int]], images: int, expected: int) -> dict[str, float | int]:
    found, written, without = 0, 0, 0
    for path, identities in parts.items():
        with Shard(path) as shard:
            found += int(shard["found"].sum())
            written += len(shard)
            without += len(set(identities) - set(shard["identity"].tolist()))
    return {
        "identities": sum(map(len, parts.values())),
        "identities_without_images": without,
        "images": images,
        "images_not_in_source": expected - images,
        "found": found,
        "missing": images - found,
        "missing_percent": round(100 * (images - found) / max(images, 1), 2),
        "written": written,
    }
