"""The training set: aligned shards as labelled, augmented images, in an order that depends on the seed only.

Rows are sorted by (identity, sample), whatever shards they lie in, and a label is the rank of its identity; an epoch's
order is a permutation seeded by (seed, epoch), and an image's augmentation by (seed, epoch, identity, sample). Shard
size, workers and resuming change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from stages.store import Shard, StoreError, decode
from stages.train.augment import augment
from stages.train.backbones import SIZE

ORDER, AUGMENT = 1, 2  # apart from each other in a generator's seed
MEMORY = 2**30  # bytes: a set up to this size is decoded once and held


class FaceDataset(Dataset):
    """The images of all shards of a folder.

    Args:
        folder: of shards with the columns `identity` and `sample` and encoded images of 112 px.
        seed: of the augmentations.
        probability: of each augmentation; 0 turns them off.
        flip: probability of a horizontal flip.
        memory: bytes; a larger set is read and decoded image by image.

    Raises:
        StoreError: no shards, a broken one, an image twice, or one of another size.
    """

    def __init__(
        self, folder: Path, seed: int = 0, probability: float = 0.0, flip: float = 0.0, memory: int = MEMORY
    ) -> None:
        self.paths = sorted(folder.glob("*.h5"))
        if not self.paths:
            raise StoreError(f"{folder}: no shards; run `r2r align` first")
        self.seed, self.probability, self.flip = seed, probability, flip
        self.fingerprints, parts = [], []
        for number, path in enumerate(self.paths):
            with Shard(path) as shard:
                rows = np.arange(len(shard))
                parts.append(np.stack([shard["identity"], shard["sample"], np.full_like(rows, number), rows]))
                self.fingerprints.append(shard.fingerprint)
        rows = np.concatenate(parts, axis=1)
        self.identity, self.sample, self.shard, self.row = rows[:, np.lexsort(rows[1::-1])]
        self._check_unique()
        self.identities, self.label = np.unique(self.identity, return_inverse=True)
        self._shards: dict[int, Shard] = {}  # opened when first read, in whichever process reads
        self.images: np.ndarray | None = None
        if len(self) * SIZE * SIZE * 3 <= memory:
            self.images = np.empty((len(self), SIZE, SIZE, 3), np.uint8)
            for index in range(len(self)):
                self.images[index] = self._read(index)

    def _check_unique(self) -> None:
        twice = (np.diff(self.identity) == 0) & (np.diff(self.sample) == 0)
        if twice.any():
            index = int(np.argmax(twice))
            first, second = (self.paths[self.shard[i]] for i in (index, index + 1))
            raise StoreError(
                f"identity {self.identity[index]}, sample {self.sample[index]} is in {first} and again in {second}"
            )

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int]:
        """Image [112, 112, 3] uint8 RGB of (epoch, index), augmented, and its label."""
        epoch, index = key
        image = self._read(index) if self.images is None else self.images[index]
        rng = np.random.default_rng([self.seed, AUGMENT, epoch, self.identity[index], self.sample[index]])
        return augment(image, rng, self.probability, self.flip).copy(), int(self.label[index])

    def _read(self, index: int) -> np.ndarray:
        number = int(self.shard[index])
        if number not in self._shards:
            self._shards[number] = Shard(self.paths[number])
        row = int(self.row[index])
        where = f"{self.paths[number]}, row {row}"
        image = decode(self._shards[number].encoded(row), where)
        if image.shape != (SIZE, SIZE, 3):
            raise StoreError(f"{where}: {image.shape[1]}x{image.shape[0]} pixels; {SIZE}x{SIZE} were expected")
        return image


def batches(images: int, batch_size: int, start: int, stop: int, seed: int) -> Iterator[list[tuple[int, int]]]:
    """The keys (epoch, index) of the batches of steps start to stop.

    Every epoch is a new permutation; the images that do not fill its last batch wait for the next epoch.
    """
    steps = images // batch_size
    drawn, order = -1, np.empty(0, int)
    for step in range(start, stop):
        epoch, k = divmod(step, steps)
        if epoch != drawn:
            drawn, order = epoch, np.random.default_rng([seed, ORDER, epoch]).permutation(images)
        yield [(epoch, int(index)) for index in order[k * batch_size : (k + 1) * batch_size]]
