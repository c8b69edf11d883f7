"""The training set: labelled, augmented images in an order that depends on the seed only.

Rows are sorted by (identity, sample), wherever they lie, and a label is the rank of its identity; an epoch's order is a
permutation seeded by (seed, epoch), and an image's augmentation by (seed, epoch, identity, sample). Shard size, workers
and resuming change nothing. `readers` say in which forms a set may stand on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from stages.store import StoreError, decode
from stages.train.augment import augment
from stages.train.backbones import SIZE
from stages.train.readers import read_training_set

ORDER, AUGMENT = 1, 2  # apart from each other in a generator's seed
MEMORY = 2**30  # bytes: a set up to this size is decoded once and held


class FaceDataset(Dataset):
    """The images of a training set.

    Args:
        path: the set, in a form that `readers` knows.
        seed: of the augmentations.
        probability: of each augmentation; 0 turns them off.
        flip: probability of a horizontal flip.
        memory: bytes; a larger set is read and decoded image by image.

    Raises:
        StoreError: no set, a broken one, an image twice, or one that is not square.
    """

    def __init__(
        self, path: Path, seed: int = 0, probability: float = 0.0, flip: float = 0.0, memory: int = MEMORY
    ) -> None:
        self.source = read_training_set(path)
        self.fingerprints = self.source.fingerprints
        self.seed, self.probability, self.flip = seed, probability, flip
        self.row = np.lexsort((self.source.sample, self.source.identity))
        self.identity, self.sample = self.source.identity[self.row], self.source.sample[self.row]
        self._check_unique()
        self.identities, self.label = np.unique(self.identity, return_inverse=True)
        self.images: np.ndarray | None = None
        if len(self) * SIZE * SIZE * 3 <= memory:
            self.images = np.empty((len(self), SIZE, SIZE, 3), np.uint8)
            for index in range(len(self)):
                self.images[index] = self._read(index)

    def _check_unique(self) -> None:
        twice = (np.diff(self.identity) == 0) & (np.diff(self.sample) == 0)
        if twice.any():
            index = int(np.argmax(twice))
            first, second = (self.source.where(int(row)) for row in self.row[index : index + 2])
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
        row = int(self.row[index])
        where = self.source.where(row)
        image = decode(self.source.encoded(row), where)
        height, width = image.shape[:2]
        if height != width:
            raise StoreError(f"{where}: {width}x{height} pixels; aligned square images were expected")
        return image if height == SIZE else cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


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
