"""The images of one identity, from its source embeddings (Digi2Real, section 3)."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stages.embed.prototypes import SourceEmbeddings
from stages.filter import chosen_identities
from stages.images import Mixtures
from stages.knobs import pick_device
from stages.store import Shard, fingerprint
from stages.transfer.arc2face.loading import load_pipeline, weights_digest
from stages.transfer.arc2face.neighbours import Neighbours
from stages.transfer.arc2face.pipeline import Arc2FacePipeline
from stages.transfer.arc2face.sampling import Latents, angular_latents, sample_latents, slerp
from stages.transfer.identity_mixup import mixtures
from stages.transfer.method import Portraits, seed_of

if TYPE_CHECKING:
    from stages.params import Params

CODE = tuple(f"transfer/arc2face/{name}" for name in ("loading", "method", "neighbours", "pipeline", "sampling"))


class Method:
    """Images of an identity by Arc2Face, from vectors on the geodesics of its source embeddings, or around them.

    Args:
        params: all knobs.
        root: the project's folder.
        device: of torch; default is the knob `transfer.device`.

    Raises:
        StoreError: embeddings, gap or generator are missing.
    """

    def __init__(self, params: Params, root: Path = Path("."), device: str | None = None) -> None:
        self.params, self.root, self.device = params, root, device
        self.embeddings = SourceEmbeddings(root)
        self.shift, self.unconditional_shift = _shifts(params, root)

    @cached_property
    def pipeline(self) -> Arc2FacePipeline:
        """The generator, loaded when the first image is asked for."""
        return load_pipeline(self.params.transfer, self.root, self.device)

    @cached_property
    def digest(self) -> str:
        """Fingerprint of all that the images are made from, but for the identity."""
        params, knobs = self.params, asdict(self.params.transfer)
        knobs |= {"device": pick_device(knobs["device"], "transfer.device")}
        for place in ("weights", "base", "lora", "identity_mixup"):  # they count by their content, the last by `origin`
            del knobs[place]
        shifts = [None if shift is None else shift.numpy() for shift in (self.shift, self.unconditional_shift)]
        drawn = [params.images_per_id, params.alpha, params.seed]
        return fingerprint(weights_digest(params.transfer, self.root), shifts, knobs, drawn, code=CODE)

    @cached_property
    def chosen(self) -> list[int]:
        """All chosen identities, of which partners are drawn."""
        return chosen_identities(self.root / "data/filter.h5")

    @cached_property
    def neighbours(self) -> Neighbours:
        """All identities of the source, read when a knob looks beyond the own one."""
        return Neighbours(self.embeddings.paths)

    def negative(self, identity: int) -> np.ndarray | None:
        """The identity [1, d] that the unconditional branch is given, or none."""
        which = self.params.transfer.negative
        return None if which == "none" else self.neighbours.other(identity, which, self.params.seed)[None]

    def mixtures(self, identity: int) -> Mixtures | None:
        """Who else is in the identity's images."""
        params = self.params
        ratios = params.transfer.identity_mixup
        return mixtures(identity, self.chosen if ratios else (), params.images_per_id, ratios, params.seed)

    def origin(self, identity: int) -> list[Any]:
        """See `stages.transfer.method.Method`."""
        negative, mixed = self.negative(identity), self.mixtures(identity)
        own = [*self._drawn_from(identity), self.digest]
        if negative is not None:
            own.append(fingerprint(negative))
        if mixed is None:
            return own
        partners = [fingerprint(partner, *self._drawn_from(partner)) for partner in mixed.partner.tolist()]
        return [*own, partners, mixed.ratio.tolist()]

    def _drawn_from(self, identity: int) -> list[Any]:
        """What an identity's latents depend on, but for the knobs."""
        own = [fingerprint(self.embeddings.of(identity))]
        return [*own, self.neighbours.angle(identity)] if self.params.transfer.sampling == "angular" else own

    def latents(self, identity: int, embeddings: np.ndarray | None = None) -> Latents:
        """The identity vectors that its images are asked for with; of the encoder's embeddings, or of others'.

        A random direction means nothing to another encoder: there, all that angular sampling asks for is the prototype.
        """
        knobs = self.params.transfer
        own = self.embeddings.of(identity) if embeddings is None else embeddings
        if knobs.sampling == "angular":
            lowest, nearest = (knobs.lowest_cosine, self.neighbours.angle(identity)) if embeddings is None else (1, 0)
            drawn = {"lowest_cosine": lowest, "nearest": nearest}
            return angular_latents(own, identity, latents=knobs.latents_per_id, seed=self.params.seed, **drawn)
        return sample_latents(
            own,
            identity,
            latents=knobs.latents_per_id,
            alpha=self.params.alpha,
            seed=self.params.seed,
            sources=knobs.sources,
            prototype=knobs.prototype,
        )

    @property
    def row(self) -> np.ndarray:
        """Which latent each of an identity's images is made of: [images_per_id] int."""
        knobs, number = self.params.transfer, np.arange(self.params.images_per_id)
        return number // knobs.images_per_latent if knobs.order == "grouped" else number % knobs.latents_per_id

    def asked(self, identity: int, embeddings: np.ndarray) -> np.ndarray:
        """See `stages.transfer.method.Method`: the same draws, so the same places on the other encoder's geodesics."""
        vectors, mixed = self.latents(identity, embeddings).vectors[self.row], self.mixtures(identity)
        if mixed:
            vectors[mixed.ratio < 1] = np.nan
        return vectors

    def vectors(self, identity: int) -> np.ndarray:
        """What each image is asked for with: [images_per_id, d] float32, unit norm.

        With identity mixup, on the great circle from the partner's vector of the same number to the own one, at the own
        one's share.
        """
        row, mixed = self.row, self.mixtures(identity)
        own = self.latents(identity).vectors[row]
        if mixed is None:
            return own
        pairs = zip(mixed.partner.tolist(), row.tolist(), strict=True)
        others = [self.latents(partner).vectors[number] for partner, number in pairs]
        return slerp(np.stack(others), own, mixed.ratio).astype(np.float32)

    def portraits(self, identity: int) -> Portraits:
        """See `stages.transfer.method.Method`; equal on a CPU to the bit, however the identities are dealt out."""
        knobs = self.params.transfer
        latents, row, vectors = self.latents(identity), self.row, self.vectors(identity)
        negative = self.negative(identity)
        sample = np.arange(len(row), dtype=np.int32)
        seeds = [seed_of(self.params.seed, "noise", identity, number) for number in sample.tolist()]
        images: list[np.ndarray] = []
        for start in range(0, len(sample), knobs.batch_size):
            part = slice(start, start + knobs.batch_size)
            batch = self.pipeline(
                torch.from_numpy(vectors[part]),
                [torch.Generator().manual_seed(seed) for seed in seeds[part]],
                height=knobs.size or None,
                width=knobs.size or None,
                steps=knobs.steps,
                guidance=knobs.guidance,
                shift=self.shift,
                unconditional_shift=self.unconditional_shift,
                negative=None if negative is None else torch.from_numpy(negative),
                decode_slice=knobs.decode_slice,
            )
            images += list(batch.numpy())
        t, mixed = latents.t[row].astype(np.float32), self.mixtures(identity)
        return Portraits(images, sample, t, np.array(seeds, np.int64), mixed)


def _shifts(params: Params, root: Path) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What is added to the conditional and the unconditional branch: weight times the domain gap, or nothing."""
    gap = params.gap
    if gap.weight == 0:
        return None, None
    with Shard(root / "data/gap/delta.h5") as shard:
        shift = torch.from_numpy(gap.weight * shard["delta"])
    return shift, shift if gap.branch == "both" else None
