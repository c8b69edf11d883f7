"""Images of the embedded world's people, each with another person's traits mixed in."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.filter import chosen_identities
from stages.images import Mixtures
from stages.store import file_digest, fingerprint
from stages.transfer.identity_mixup import mixtures
from stages.transfer.method import Portraits
from stages.world import WORLD_RANGES, Traits, build_head, render, sample_scene, sample_traits
from stages.world.datasets import ASSETS, PORTRAITS
from stages.world.mixup import mix_traits

if TYPE_CHECKING:
    from stages.params import Params

CODE = ("transfer/synface/method", "world/mixup", *PORTRAITS)


class Method:
    """Images of a person by the renderer, in the source's look; unmixed, they are the source's own.

    Args:
        params: all knobs.
        root: the project's folder.
        device: has no part in it.
    """

    def __init__(self, params: Params, root: Path = Path("."), device: str | None = None) -> None:
        self.params, self.root = params, root

    @cached_property
    def chosen(self) -> list[int]:
        """All chosen identities."""
        return chosen_identities(self.root / "data/filter.h5")

    @cached_property
    def digest(self) -> str:
        """Fingerprint of all that the images are made from, but for the identities."""
        fetch = self.params.fetch
        return fingerprint(
            file_digest(ASSETS), fetch.world_seed, fetch.source_size, self.params.images_per_id, code=CODE
        )

    def mixtures(self, identity: int) -> Mixtures | None:
        """Who else is in the identity's images."""
        params = self.params
        ratios = params.transfer.identity_mixup
        return mixtures(identity, self.chosen if ratios else (), params.images_per_id, ratios, params.seed)

    def origin(self, identity: int) -> list[Any]:
        """See `stages.transfer.method.Method`."""
        mixed = self.mixtures(identity)
        return [identity, self.digest, mixed and [column.tolist() for column in mixed]]

    def asked(self, identity: int, embeddings: np.ndarray) -> np.ndarray:
        """See `stages.transfer.method.Method`: the prototype; unknown (NaN) of an image that others are in."""
        mean, mixed = embeddings.sum(axis=0), self.mixtures(identity)
        vectors = np.tile(mean / np.linalg.norm(mean), (self.params.images_per_id, 1))
        if mixed:
            vectors[mixed.ratio < 1] = np.nan
        return vectors

    def portraits(self, identity: int) -> Portraits:
        """See `stages.transfer.method.Method`."""
        fetch, mixed, n = self.params.fetch, self.mixtures(identity), self.params.images_per_id
        person, own = WORLD_RANGES["source"] + identity, self._traits(identity)
        head = build_head(own)
        images = []
        for sample in range(n):
            if mixed:
                partner = self._traits(int(mixed.partner[sample]))
                head = build_head(mix_traits(own, partner, float(mixed.ratio[sample])))
            images.append(render(head, sample_scene(person, sample, fetch.world_seed), "raster", fetch.source_size))
        none = np.full(n, np.nan, np.float32)
        return Portraits(images, np.arange(n, dtype=np.int32), none, np.zeros(n, np.int64), mixed)

    def _traits(self, identity: int) -> Traits:
        return sample_traits(WORLD_RANGES["source"] + identity, self.params.fetch.world_seed)
