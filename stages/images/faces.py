"""What all sets of labelled faces are to those who read them, wherever the images lie.

Notation: n images of m identities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.images.mixtures import Mixtures
from stages.store import StoreError, decode

CHUNK = 1000  # identities of a part, where a set has no parts of its own


class Faces:
    """n labelled images, sorted by identity and sample; usable in threads and in forked or spawned processes.

    A reader passes what it found to `__init__`, in any order, and gives `_encoded`, `_where` and `_digests` of a
    *place*, an image's number in the order in which it was found.

    Attributes:
        path: of the set.
        identity, sample: [n] int64, which together name an image.
        mixtures: whom else the images show; none in a set of images of one identity each.
        left_out: what stands there and is not read, counted by kind.

    Raises:
        StoreError: an image twice, or none at all.
    """

    def __init__(
        self,
        path: Path,
        identity: np.ndarray,
        sample: np.ndarray,
        left_out: dict[str, int] | None = None,
        mixtures: Mixtures | None = None,
    ) -> None:
        self.path = path
        self.left_out = {kind: count for kind, count in (left_out or {}).items() if count}
        if not len(identity):
            raise StoreError(f"{path}: holds no image")
        self._place = np.lexsort((sample, identity))
        self.identity = np.asarray(identity, np.int64)[self._place]
        self.sample = np.asarray(sample, np.int64)[self._place]
        self.mixtures = mixtures and Mixtures(*(column[self._place] for column in mixtures))
        twice = (np.diff(self.identity) == 0) & (np.diff(self.sample) == 0)
        if twice.any():
            row = int(np.argmax(twice))
            raise StoreError(
                f"identity {self.identity[row]}, sample {self.sample[row]} is in {self.where(row)} and again in "
                f"{self.where(row + 1)}"
            )

    def __len__(self) -> int:
        return len(self.identity)

    @cached_property
    def identities(self) -> np.ndarray:
        """[m] int64, rising."""
        return np.unique(self.identity)

    @property
    def place(self) -> np.ndarray:
        """[n] int64: of each image's row, its number in the order in which they lie."""
        return self._place

    def rows(self, identity: int) -> range:
        """The rows of an identity's images, by rising sample.

        Raises:
            StoreError: there is no such identity.
        """
        first, last = np.searchsorted(self.identity, [identity, identity + 1]).tolist()
        if first == last:
            raise StoreError(f"{self.path}: no images of identity {identity} among the {len(self.identities)} there")
        return range(first, last)

    def encoded(self, row: int) -> bytes:
        """The image file of a row."""
        return self._encoded(int(self._place[row]))

    def where(self, row: int) -> str:
        """Where it stands, for messages."""
        return self._where(int(self._place[row]))

    def image(self, row: int) -> np.ndarray:
        """The decoded image of a row: [h, w, 3] uint8 RGB."""
        return decode(self.encoded(row), self.where(row))

    def digest(self, rows: Iterable[int] | None = None) -> str:
        """Identity of the content of these rows, or of all: the images' numbers and bytes, and not where they lie."""
        chosen = np.arange(len(self)) if rows is None else np.fromiter(rows, np.int64)
        digest = hashlib.sha256()
        mixed = [column[chosen] for column in self.mixtures or ()]
        for column in (self.identity[chosen], self.sample[chosen], self._digests(self._place[chosen]), *mixed):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        """The set in parts that a stage may work on one by one: a name and the rows [k] of each."""
        for number, start in enumerate(range(0, len(self.identities), CHUNK)):
            chosen = self.identities[start : start + CHUNK]
            first, last = np.searchsorted(self.identity, [chosen[0], chosen[-1] + 1])
            yield f"{number:05}", np.arange(first, last)

    def _encoded(self, place: int) -> bytes:
        raise NotImplementedError

    def _where(self, place: int) -> str:
        raise NotImplementedError

    def _digests(self, places: np.ndarray) -> np.ndarray:
        """Of each image's bytes: [k, ...] of integers, such as length and checksum."""
        raise NotImplementedError
