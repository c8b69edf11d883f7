"""What the shards of `data/embed` say of identities.

Notation: m identities, k images of one, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stages.store import Shard, StoreError, opened


def source_shards(root: Path) -> list[Path]:
    """The shards of the source.

    Raises:
        StoreError: there are none.
    """
    folder = root / "data/embed/source"
    paths = sorted(folder.glob("*.h5"))
    if not paths:
        raise StoreError(f"{folder}: no shards; run `r2r embed` first")
    return paths


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
        raise StoreError(f"identity {twice[0]} is in two shards of the source; an identity's images stand in one")
    return identities, sums[order], counts[order]


class SourceEmbeddings:
    """The identities of `data/embed/source`; embeddings are read when they are asked for.

    Raises:
        StoreError: no shards, or an identity in two of them.
    """

    def __init__(self, root: Path) -> None:
        self.paths = source_shards(root)
        self.identities: list[np.ndarray] = []  # [rows] of each shard
        self.shard_of: dict[int, int] = {}
        for number, path in enumerate(self.paths):
            with Shard(path) as shard:
                self.identities.append(shard["identity"])
            for identity in np.unique(self.identities[-1]).tolist():
                if identity in self.shard_of:
                    other = self.paths[self.shard_of[identity]]
                    raise StoreError(f"identity {identity} is in {other.name} and in {path.name}")
                self.shard_of[identity] = number

    def of(self, identity: int) -> np.ndarray:
        """An identity's embeddings, in the order of its images' numbers: [k, d] float32.

        Raises:
            StoreError: there is no such identity.
        """
        if identity not in self.shard_of:
            raise StoreError(f"identity {identity} has no embeddings; run `r2r embed` and `r2r filter` again")
        number = self.shard_of[identity]
        rows = np.flatnonzero(self.identities[number] == identity)
        shard = opened(self.paths[number])
        order = shard.column("sample")[rows].argsort(kind="stable")
        return shard.column("embedding")[rows][order]
