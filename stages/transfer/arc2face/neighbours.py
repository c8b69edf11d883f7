"""The other identities of the source, by how near they are to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.embed.prototypes import identity_sums
from stages.filter import prototypes
from stages.store import StoreError
from stages.transfer.method import seed_of


class Neighbours:
    """The prototypes [m, d] of all identities of the source, chosen or not: who else is chosen moves nobody's vectors.

    Raises:
        StoreError: fewer than two identities, or one whose embeddings cancel out.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.identities, sums, _ = identity_sums(shards)
        if len(self.identities) < 2:
            raise StoreError(f"{shards[0].parent}: one identity, which has no neighbour")
        self.vectors = prototypes(self.identities, sums)

    def angle(self, identity: int) -> float:
        """Between an identity's prototype and the nearest other: radians."""
        return float(np.arccos(np.clip(self._others(identity)[1].max(), -1, 1)))

    def other(self, identity: int, which: str, seed: int) -> np.ndarray:
        """The prototype [d] float32 of the `nearest`, `median` or `farthest` other, or a `random` one's by the seed."""
        rows, cosines = self._others(identity)
        rising = rows[np.argsort(cosines, kind="stable")]
        draw = int(np.random.default_rng(seed_of(seed, "negative", identity)).integers(len(rows)))
        place = {"nearest": -1, "median": len(rows) // 2, "farthest": 0, "random": draw}[which]
        return self.vectors[rising[place]]

    def _others(self, identity: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines [m - 1] of all others."""
        row = int(np.searchsorted(self.identities, identity))
        others = np.delete(np.arange(len(self.identities)), row)
        return others, np.delete(self.vectors @ self.vectors[row], row)
