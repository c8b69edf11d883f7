"""This project's shards: columns `identity` and `sample`, and of mixed identities those of `Mixtures`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.images.faces import Faces
from stages.images.mixtures import Mixtures
from stages.store import Shard, StoreError, opened, write_shard


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
    """All shards of a folder, or the ones named; few are open at a time.

    Raises:
        StoreError: no shards, or a broken one.
    """

    def __init__(self, folder: Path, paths: Sequence[Path] | None = None) -> None:
        self.paths = sorted(folder.glob("*.h5")) if paths is None else list(paths)
        if not self.paths:
            raise StoreError(f"{folder}: no shards; run the stage that makes them first")
        identity, sample, shard, row, digests, mixtures = [], [], [], [], [], []
        for number, path in enumerate(self.paths):
            with Shard(path) as content:
                assert content.offsets is not None
                identity.append(content["identity"])
                sample.append(content["sample"])
                shard.append(np.full(len(content), number))
                row.append(np.arange(len(content)))
                if "partner" in content.names:
                    mixtures.append((content["partner"], content["ratio"]))
                digests.append(np.stack([np.diff(content.offsets), content.checksums.astype(np.int64)], axis=1))
        self._shard, self._row = np.concatenate(shard), np.concatenate(row)
        self._content = np.concatenate(digests)
        if mixtures and len(mixtures) < len(self.paths):
            raise StoreError(f"{folder}: some of the shards are of mixed identities, and others are not")
        mixed = Mixtures(*map(np.concatenate, zip(*mixtures, strict=True))) if mixtures else None
        super().__init__(folder, np.concatenate(identity), np.concatenate(sample), mixtures=mixed)

    def _encoded(self, place: int) -> bytes:
        return opened(self.paths[self._shard[place]]).encoded(int(self._row[place]))

    def _where(self, place: int) -> str:
        return f"{self.paths[self._shard[place]]}, row {self._row[place]}"

    def _digests(self, places: np.ndarray) -> np.ndarray:
        return self._content[places]
