"""This project's shards: columns `identity` and `sample` beside the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.store import Shard


class Shards:
    """All shards of a folder; see `TrainingSet`.

    Raises:
        StoreError: a broken shard.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.h5"))
        self.fingerprints: list[str] = []
        parts = []
        for number, path in enumerate(self.paths):
            with Shard(path) as shard:
                rows = np.arange(len(shard))
                parts.append(np.stack([shard["identity"], shard["sample"], np.full_like(rows, number), rows]))
                self.fingerprints.append(shard.fingerprint)
        self.identity, self.sample, self._shard, self._row = np.concatenate(parts, axis=1)
        self._open: dict[int, Shard] = {}  # opened when first read, in whichever process reads

    def encoded(self, row: int) -> bytes:
        """The image file of a row."""
        number = int(self._shard[row])
        if number not in self._open:
            self._open[number] = Shard(self.paths[number])
        return self._open[number].encoded(int(self._row[row]))

    def where(self, row: int) -> str:
        """Shard and row."""
        return f"{self.paths[self._shard[row]]}, row {self._row[row]}"
