"""This project's shards: columns `identity` and `sample`, and of mixed identities those of `Mixtures`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.images.faces import Faces
from stages.images.mixtures import Mixtures
from stages.store import Shard, StoreError, opened, write_shard
from stages.store.files import broken


@dataclass(frozen=True)
class Rows:
    """One identity's rows of a shard: columns of n rows, `identity` among them, and n encoded images or none."""

    columns: dict[str, np.ndarray]
    images: list[bytes] | None


def write_rows(path: Path, identities: Iterator[Rows]) -> dict[str, float]:
    """Write a shard of identities; gives the number of rows."""
    parts = list(identities)
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    without = any(part.images is None for part in parts)
    write_shard(path, columns, None if without else [image for part in parts for image in part.images or ()])
    return {"rows": len(columns["identity"])}


def read_rows(path: Path, identity: int) -> Rows:
    """One identity's rows of a shard."""
    shard = opened(path)
    rows = np.flatnonzero(shard["identity"] == identity)
    columns = {name: shard[name][rows] for name in shard.names}
    return Rows(columns, None if shard.offsets is None else [shard.encoded(row) for row in rows.tolist()])


class Shards(Faces):
    """All shards of a folder, or the ones named; none is held open.

    Raises:
        StoreError: no shards, or a broken one.
    """

    def __init__(self, folder: Path, paths: Sequence[Path] | None = None) -> None:
        self.paths = sorted(folder.glob("*.h5")) if paths is None else list(paths)
        if not self.paths:
            raise StoreError(f"{folder}: no shards; run the stage that makes them first")
        identity, sample, shard, row, begin, digests, mixtures = [], [], [], [], [], [], []
        for number, path in enumerate(self.paths):
            with Shard(path) as content:
                assert content.offsets is not None
                begin.append(content.begin + content.offsets[:-1])
                identity.append(content["identity"])
                sample.append(content["sample"])
                shard.append(np.full(len(content), number))
                row.append(np.arange(len(content)))
                if "partner" in content.names:
                    mixtures.append((content["partner"], content["ratio"]))
                digests.append(np.stack([np.diff(content.offsets), content.checksums.astype(np.int64)], axis=1))
        self._shard, self._row, self._begin = (np.concatenate(column) for column in (shard, row, begin))
        self._content = np.concatenate(digests)
        if mixtures and len(mixtures) < len(self.paths):
            raise StoreError(f"{folder}: some of the shards are of mixed identities, and others are not")
        mixed = Mixtures(*map(np.concatenate, zip(*mixtures, strict=True))) if mixtures else None
        super().__init__(folder, np.concatenate(identity), np.concatenate(sample), mixtures=mixed)

    def _encoded(self, place: int) -> bytes:
        """Read at its place in the file: opening a shard as HDF5 takes longer than decoding an image."""
        path, length = self.paths[self._shard[place]], int(self._content[place, 0])
        try:
            with path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), length, int(self._begin[place]))
        except OSError as error:
            raise broken(path, error, "not a readable shard; delete it and run the stage again") from error

    def _where(self, place: int) -> str:
        return f"{self.paths[self._shard[place]]}, row {self._row[place]}"

    def _digests(self, places: np.ndarray) -> np.ndarray:
        return self._content[places]
