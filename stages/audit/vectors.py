"""A set of faces as a network sees it: vectors on disk, so that memory does not grow with the set.

Notation: n images of m identities, d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from stages.align.knobs import Align
from stages.align.warp import SIZE
from stages.evaluate import embeddings
from stages.evaluate.benchmarks import Images
from stages.evaluate.embeddings import Network
from stages.evaluate.pairs import fuse
from stages.filter import prototypes
from stages.images import Faces
from stages.store import StoreError, cache_folder

STEP = 1000  # identities whose vectors are in memory at a time


@dataclass(frozen=True)
class Vectors:
    """A set of faces and what a network makes of it.

    Attributes:
        faces: the set.
        align: how faces were found; none where the images were taken as they are.
        images: [n, d] float32, unit norm, in the order of the set's rows.
        prototypes: [m, d] float32, unit norm, of the identities by rising number.
        halves: [m] float64, cosine between the prototypes of an identity's even and odd images; NaN of a single one.
        without_face: images in which a face was sought and not found.
    """

    faces: Faces
    align: Align | None
    images: np.ndarray
    prototypes: np.ndarray
    halves: np.ndarray
    without_face: int

    @property
    def starts(self) -> np.ndarray:
        """[m + 1], the first row of each identity, and n."""
        return np.searchsorted(self.faces.identity, [*self.faces.identities, np.iinfo(np.int64).max])

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """Images as the network saw them: [k, 112, 112, 3] uint8 RGB."""
        return embeddings.load(_images(self.faces, rows, self.align), range(len(rows)), self.align)[0]


@contextmanager
def seen(faces: Faces, network: Network, *, detect: bool, flip: bool, batch_size: int) -> Iterator[Vectors]:
    """Embed a set, part by part; a part is kept in the cache, and a killed run goes on with the next.

    Args:
        faces: the set. Where its first image has 112 x 112 px, all are taken as they are; else faces are aligned first.
        network: who sees it.
        detect: align faces of 112 px too.
        flip: add the vector of the mirror image, so that a mirrored copy is found as well.
        batch_size: images at a time.

    Raises:
        StoreError: an image that does not decode, or whose vector is zero or not finite.
    """
    aligned = not detect and faces.image(0).shape[:2] == (SIZE, SIZE)
    align = None if aligned else Align()
    with TemporaryDirectory(dir=_folder()) as folder, tqdm(desc="audit", unit=" images", total=len(faces)) as bar:
        images, without_face = None, 0
        for _, rows in faces.parts():
            part = embeddings.embed(
                network, _images(faces, rows, align), flip=flip, align=align, batch_size=batch_size, bar=bar
            )
            vectors = fuse(part.views).astype(np.float32)
            if not vectors.any(axis=1).all():
                raise StoreError(f"{faces.where(int(rows[~vectors.any(axis=1)][0]))}: its embedding is zero")
            if images is None:
                images = _on_disk(Path(folder) / "images", len(faces), vectors.shape[1])
            images[rows] = vectors
            without_face += int((~part.found).sum())
        assert images is not None
        yield Vectors(faces, align, images, *_prototypes(faces, images, Path(folder)), without_face)


def _folder() -> Path:
    (folder := cache_folder() / "audit").mkdir(parents=True, exist_ok=True)
    return folder


def _on_disk(path: Path, rows: int, dimension: int) -> np.ndarray:
    return np.memmap(path, np.float32, "w+", shape=(rows, dimension))


def _images(faces: Faces, rows: np.ndarray, align: Align | None) -> Images:
    names = [f"identity {faces.identity[row]}, sample {faces.sample[row]}" for row in rows]
    return Images(names, lambda number: faces.encoded(int(rows[number])), faces.digest(rows), aligned=align is None)


def _prototypes(faces: Faces, images: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of each identity, and the cosine of its two halves'."""
    identities = faces.identities
    starts = np.searchsorted(faces.identity, [*identities, np.iinfo(np.int64).max])
    result = _on_disk(folder / "prototypes", len(identities), images.shape[1])
    halves = np.full(len(identities), math.nan)
    for first in range(0, len(identities), STEP):
        part = slice(first, first + STEP)
        begins = starts[first : first + STEP + 1]
        rows = np.asarray(images[begins[0] : begins[-1]], np.float64)
        number = np.arange(len(rows)) - np.repeat(begins[:-1] - begins[0], np.diff(begins))  # within the identity
        odd = np.add.reduceat(rows * (number % 2)[:, None], begins[:-1] - begins[0])
        whole = np.add.reduceat(rows, begins[:-1] - begins[0])
        result[part] = prototypes(identities[part], whole)
        with np.errstate(invalid="ignore"):
            lengths = np.linalg.norm(odd, axis=1) * np.linalg.norm(whole - odd, axis=1)
            halves[part] = np.einsum("md,md->m", odd, whole - odd) / lengths
    return result, halves
