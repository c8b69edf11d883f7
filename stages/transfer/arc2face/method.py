"""The images of one identity, from its source embeddings (Digi2Real, section 3)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from stages.params import Params
from stages.store import Shard, StoreError, fingerprint
from stages.transfer import Portraits, seed_of
from stages.transfer.arc2face import Arc2FacePipeline, load_pipeline, weights_digest
from stages.transfer.arc2face.sampling import Latents, sample_latents


class SourceEmbeddings:
    """The identities of `data/embed/source`; embeddings are read when they are asked for.

    Raises:
        StoreError: no shards, or an identity in two of them.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.h5"))
        if not self.paths:
            raise StoreError(f"{folder}: no shards; run `r2r embed` first")
        self.fingerprints: list[str] = []
        self.identities: list[np.ndarray] = []  # [rows] of each shard
        self.shard_of: dict[int, int] = {}
        for number, path in enumerate(self.paths):
            with Shard(path) as shard:
                self.fingerprints.append(shard.fingerprint)
                self.identities.append(shard["identity"])
            for identity in np.unique(self.identities[-1]).tolist():
                if identity in self.shard_of:
                    other = self.paths[self.shard_of[identity]]
                    raise StoreError(f"identity {identity} is in {other.name} and in {path.name}")
                self.shard_of[identity] = number

    def shard(self, identity: int) -> int:
        """Number of the shard that holds an identity."""
        if identity not in self.shard_of:
            raise StoreError(f"identity {identity} has no embeddings; run `r2r embed` and `r2r filter` again")
        return self.shard_of[identity]

    def of(self, identity: int) -> np.ndarray:
        """An identity's embeddings, in the order of its images' numbers: [k, d] float32."""
        number = self.shard(identity)
        rows = np.flatnonzero(self.identities[number] == identity)
        with Shard(self.paths[number]) as shard:
            order = shard.file["sample"][rows].argsort(kind="stable")
            return shard.file["embedding"][rows][order]


class Arc2FaceTransfer:
    """Images of an identity by Arc2Face, from vectors on the geodesics of its source embeddings.

    Args:
        params: all knobs.
        root: the project's folder.
        device: of torch; default is the knob `arc2face.device`.

    Raises:
        StoreError: embeddings, gap or generator are missing.
    """

    def __init__(self, params: Params, root: Path = Path("."), device: str | None = None) -> None:
        self.params, self.root, self.device = params, root, device
        self.embeddings = SourceEmbeddings(root / "data/embed/source")
        self.shift, self.unconditional_shift = _shifts(params, root)

    @cached_property
    def pipeline(self) -> Arc2FacePipeline:
        """The generator, loaded when the first image is asked for."""
        return load_pipeline(self.params.arc2face, self.root, self.device)

    @cached_property
    def digest(self) -> str:
        """Fingerprint of all that the images are made from, but for the identity."""
        params = self.params
        shifts = [None if shift is None else shift.tolist() for shift in (self.shift, self.unconditional_shift)]
        knobs = [params.arc2face, params.images_per_id, params.alpha, params.seed]
        return fingerprint(weights_digest(params.arc2face, self.root), shifts, *knobs)

    def origin(self, identity: int) -> list[str]:
        """See `stages.transfer.Transfer`."""
        return [self.embeddings.fingerprints[self.embeddings.shard(identity)], self.digest]

    def latents(self, identity: int, embeddings: np.ndarray | None = None) -> Latents:
        """The identity vectors that its images are asked for with; of the encoder's embeddings, or of others'."""
        knobs = self.params.arc2face
        return sample_latents(
            self.embeddings.of(identity) if embeddings is None else embeddings,
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
        knobs, number = self.params.arc2face, np.arange(self.params.images_per_id)
        return number // knobs.images_per_latent if knobs.order == "grouped" else number % knobs.latents_per_id

    def asked(self, identity: int, embeddings: np.ndarray) -> np.ndarray:
        """See `stages.transfer.Transfer`: the same draws, so the same places on the other encoder's geodesics."""
        return self.latents(identity, embeddings).vectors[self.row]

    def portraits(self, identity: int) -> Portraits:
        """See `stages.transfer.Transfer`; equal on a CPU to the bit, however the identities are dealt out."""
        knobs = self.params.arc2face
        latents, row = self.latents(identity), self.row
        sample = np.arange(len(row), dtype=np.int32)
        seeds = [seed_of(self.params.seed, "noise", identity, number) for number in sample.tolist()]
        images = []
        for start in range(0, len(sample), knobs.batch_size):
            part = slice(start, start + knobs.batch_size)
            batch = self.pipeline(
                torch.from_numpy(latents.vectors[row[part]]),
                [torch.Generator().manual_seed(seed) for seed in seeds[part]],
                height=knobs.size or None,
                width=knobs.size or None,
                steps=knobs.steps,
                guidance=knobs.guidance,
                shift=self.shift,
                unconditional_shift=self.unconditional_shift,
                decode_slice=knobs.decode_slice,
            )
            images.append(batch.numpy())
        return Portraits(np.concatenate(images), sample, latents.t[row].astype(np.float32), np.array(seeds, np.int64))


def _shifts(params: Params, root: Path) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What is added to the conditional and the unconditional branch: weight times the domain gap, or nothing."""
    gap = params.gap
    if gap.weight == 0:
        return None, None
    with Shard(root / "data/gap/delta.h5") as shard:
        shift = torch.from_numpy(gap.weight * shard["delta"])
    return shift, shift if gap.branch == "both" else None
