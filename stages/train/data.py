"""The training set: labelled, augmented images in an order that depends on the seed only.

A label is the rank of its identity. An epoch's order is a permutation seeded by (seed, epoch), and an image's
augmentation by (seed, epoch, identity, sample). Form and place of the set, workers and resuming change nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.images import Faces, looks_swapped, read_faces
from stages.knobs import check
from stages.store import StoreError
from stages.train.augment import augment
from stages.train.networks import SIZE

ORDER, AUGMENT = 1, 2  # apart from each other in a generator's seed
MEMORY = 2**30  # bytes: a set up to this size is decoded once and held
Channels = Literal["rgb", "bgr"]


class FaceDataset(Dataset):
    """The images of a training set.

    Args:
        faces: the set, or where it stands.
        seed: of the augmentations.
        probability: of each augmentation; 0 turns them off.
        flip: probability of a horizontal flip.
        stored: the order of the channels in the set's files.
        channels: the order in which augmentations and network see them.

    Raises:
        StoreError: no set, or a broken one.
        ParamsError: a single identity.
    """

    def __init__(
        self,
        faces: Faces | Path,
        seed: int = 0,
        probability: float = 0.0,
        flip: float = 0.0,
        stored: Channels = "rgb",
        channels: Channels = "rgb",
    ) -> None:
        self.faces = faces = read_faces(faces) if isinstance(faces, Path) else faces
        self.seed, self.probability, self.flip = seed, probability, flip
        self.stored, self.channels, self.swap = stored, channels, stored != channels
        self.identities, self.label = np.unique(faces.identity, return_inverse=True)
        check(
            len(self.identities) > 1,
            f"train.data: {faces.path} holds {len(self)} images of one identity, which teach nothing: name the folder "
            "above, that of all identities",
        )
        self.images: Tensor | None = None  # a tensor, which a spawned worker shares

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int]:
        """Image [112, 112, 3] uint8 of (epoch, index), augmented, and its label."""
        epoch, index = key
        image = self._read(index) if self.images is None else self.images[index].numpy()
        rng = np.random.default_rng([self.seed, AUGMENT, epoch, self.faces.identity[index], self.faces.sample[index]])
        return augment(image, rng, self.probability, self.flip).copy(), int(self.label[index])

    def hold(self, memory: int = MEMORY) -> None:
        """Decode all images once, if they take no more than so many bytes.

        Raises:
            StoreError: one that does not decode, or is not square.
        """
        if len(self) * SIZE * SIZE * 3 <= memory:
            images = np.empty((len(self), SIZE, SIZE, 3), np.uint8)
            for index in range(len(self)):
                images[index] = self._read(index)
            self.images = torch.from_numpy(images)

    def hint(self) -> None:
        """Say so where the colours of a set that is read as RGB look as if it were BGR."""
        if self.stored == "rgb" and looks_swapped(self.faces):
            print(
                f"{self.faces.path}: red and blue look swapped; if the set is stored as BGR, set train.channels to bgr",
                file=sys.stderr,
            )

    def _read(self, index: int) -> np.ndarray:
        image = self.faces.image(index)
        height, width = image.shape[:2]
        if height != width:
            raise StoreError(f"{self.faces.where(index)}: {width}x{height} pixels; aligned square images were expected")
        if height != SIZE:
            image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(image[..., ::-1]) if self.swap else image


def epoch_steps(images: int, batch_size: int, keep: bool = False) -> int:
    """Batches of an epoch; with `keep`, the images that do not fill the last one make a smaller one."""
    return -(-images // batch_size) if keep else images // batch_size


def batches(
    images: int, batch_size: int, start: int, stop: int, seed: int, keep: bool = False
) -> Iterator[list[tuple[int, int]]]:
    """The keys (epoch, index) of the batches of steps start to stop.

    Every epoch is a new permutation; without `keep`, the images that do not fill its last batch wait for the next.
    """
    steps = epoch_steps(images, batch_size, keep)
    drawn, order = -1, np.empty(0, int)
    for step in range(start, stop):
        epoch, k = divmod(step, steps)
        if epoch != drawn:
            drawn, order = epoch, np.random.default_rng([seed, ORDER, epoch]).permutation(images)
        yield [(epoch, int(index)) for index in order[k * batch_size : (k + 1) * batch_size]]
