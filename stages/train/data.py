"""The training set: labelled, augmented images of one set or several.

A label is the rank of its identity among those of its source, behind those of the sources before it: no two sources
share a person. An image of mixed identities has two labels, by their weights. An image's augmentation is seeded by
(seed, epoch, identity, sample), and by its source and showing but for the first. Form and place of a set, workers and
resuming change nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stages.images import Faces, looks_swapped, read_faces
from stages.knobs import check
from stages.store import StoreError, fingerprint
from stages.train.networks import SIZE
from stages.train.order import Key, Order
from stages.train.recipes import Recipe

AUGMENT = 2  # apart from the order in a generator's seed
MEMORY = 2**30  # bytes: a set up to this size is decoded once and held
AHEAD = 4  # batches that each worker makes before they are asked for
Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class Source:
    """A set that is trained on.

    Attributes:
        name: of its knob, `train.data`.
        faces: the set.
        weight: passes over it in an epoch.
        n_ids: its first identities; 0 is all.
        stored: the order of the channels in its files.
    """

    name: str
    faces: Faces
    weight: float = 1.0
    n_ids: int = 0
    stored: Channels = "rgb"

    def rows(self) -> np.ndarray:
        """The rows of its identities, the first of the set: [n] int64.

        Raises:
            ParamsError: there are fewer.
        """
        have = len(self.faces.identities)
        check(
            self.n_ids <= have,
            f"{self.name.split('.')[0]}.n_ids is {self.n_ids}: {self.faces.path} holds {have} identities",
        )
        end = np.searchsorted(self.faces.identity, self.faces.identities[(self.n_ids or have) - 1], "right")
        return np.arange(end)


class FaceDataset(Dataset):
    """The n images of a training set.

    Args:
        sources: the sets, or where the only one stands.
        seed: of the augmentations.
        recipe: augments an image; none leaves them as they are.
        sees: the order of the channels that the recipe is for.
        channels: the order in which the network sees them.
        columns: of an image, the middle ones, that recipe and network see.

    Attributes:
        identity, sample: [n] int64, by which a source knows an image.
        source, label: [n] int64.
        soft: labels [n, 2] int64 and weights [n, 2] float32, the image's own identity first; none where no source is
            of mixed identities.
        identities: how many there are.

    Raises:
        StoreError: no set, a broken one, or one in which an image shows an identity that is not there.
        ParamsError: a single identity, or fewer than asked for.
    """

    def __init__(
        self,
        sources: Sequence[Source] | Path,
        seed: int = 0,
        recipe: Recipe | None = None,
        sees: Channels = "rgb",
        channels: Channels = "rgb",
        columns: int = SIZE,
    ) -> None:
        if isinstance(sources, Path):
            sources = [Source("train.data", read_faces(sources))]
        self.sources, self.seed, self.recipe = sources, seed, recipe
        self.sees, self.channels, self.turned = sees, channels, sees != channels
        rows = [source.rows() for source in sources]
        self._row = np.concatenate(rows)
        self.source = np.repeat(np.arange(len(sources)), [len(chosen) for chosen in rows])
        self.identity = np.concatenate([one.faces.identity[row] for one, row in zip(sources, rows, strict=True)])
        self.sample = np.concatenate([one.faces.sample[row] for one, row in zip(sources, rows, strict=True)])
        self._place = np.concatenate([one.faces.place[row] for one, row in zip(sources, rows, strict=True)])
        shown = [shown_by(one, row) for one, row in zip(sources, rows, strict=True)]
        people = np.cumsum([0, *(len(one.identities) for one in shown)])
        labels = np.concatenate([one.labels + first for one, first in zip(shown, people, strict=False)])
        weights = np.concatenate([one.weights for one in shown])
        self.label, self.identities = labels[:, 0].copy(), int(people[-1])
        self.soft = (labels, weights) if any(one.faces.mixtures for one in sources) else None
        self.margin = (SIZE - columns) // 2
        check(
            self.identities > 1,
            f"train.data: {sources[0].faces.path} holds {len(self)} images of one identity, which teach nothing: name "
            "the folder above, that of all identities",
        )
        self.images: Tensor | None = None  # a tensor, which a spawned worker shares

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, key: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """Image [112, columns, 3] uint8 of (epoch, index, showing), augmented, and its label."""
        epoch, index, showing = (*key, 0)[:3]
        image = self._read(index) if self.images is None else self.images[index].numpy()
        image = image[:, self.margin : SIZE - self.margin]
        if self.recipe:
            own = [self.seed, AUGMENT, epoch, int(self.identity[index]), int(self.sample[index])]
            apart = [int(self.source[index]), showing]
            image = self.recipe(image, np.random.default_rng(own + apart if any(apart) else own))
        return (image[..., ::-1] if self.turned else image), int(self.label[index])

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, ...]:
        """A batch: images [b, 112, columns, 3] uint8, labels [b] int64; or labels [b, 2] and their weights (`soft`)."""
        images = torch.empty(len(keys), SIZE, SIZE - 2 * self.margin, 3, dtype=torch.uint8)
        labels = torch.empty(len(keys), dtype=torch.int64)
        for number, key in enumerate(keys):
            images.numpy()[number], labels.numpy()[number] = self[key]
        if self.soft is None:
            return images, labels
        rows = [index for _, index, *_ in keys]
        return images, *(torch.from_numpy(column[rows]) for column in self.soft)

    def order(self, shards: int = 0, balanced: bool = False) -> Order:
        """What its epochs show; with `shards`, sequential but for a buffer of so many images."""
        weights = [source.weight for source in self.sources]
        label = np.unique(self.label, return_inverse=True)[1]  # without people who are in others' images alone
        return Order(self.source, label, self._place, self.seed, weights, balanced, shards)

    def domains(self, shards: int = 0, balanced: bool = False) -> tuple[Order, Order]:
        """For domain mixup: what the epochs show of all sources but the last, and as many images of the last."""
        whole = self.order(shards, balanced)
        synthetic = replace(whole, weights=[*whole.weights[:-1], 0.0])
        share = len(synthetic) / np.count_nonzero(self.source == len(self.sources) - 1)
        weights = [0.0] * (len(self.sources) - 1) + [share]
        return synthetic, replace(whole, weights=weights, seed=self.seed + 2**31)  # in an order of their own

    def counts(self) -> dict[str, int]:
        """Identities and images: of all, and, where there are several sources, of each."""
        counts = {"identities": self.identities, "images": len(self)}
        for number, source in enumerate(self.sources if len(self.sources) > 1 else ()):
            here, name = self.source == number, source.name.replace(".", "_")
            counts |= {f"{name}_identities": len(np.unique(self.label[here])), f"{name}_images": int(here.sum())}
        return counts

    def digest(self) -> str:
        """Identity of what it shows: content and weight of each source."""
        rows = [self._row[self.source == number] for number in range(len(self.sources))]
        return fingerprint([(one.faces.digest(row), one.weight) for one, row in zip(self.sources, rows, strict=True)])

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
        for source in self.sources:
            if source.stored == "rgb" and looks_swapped(source.faces):
                remedy = "; if the set is stored as BGR, set train.channels to bgr" * (source.name == "train.data")
                print(f"{source.faces.path}: red and blue look swapped{remedy}", file=sys.stderr)

    def _read(self, index: int) -> np.ndarray:
        """Of an image as the recipe sees it."""
        source, row = self.sources[self.source[index]], int(self._row[index])
        image = source.faces.image(row)
        height, width = image.shape[:2]
        if height != width:
            where = source.faces.where(row)
            raise StoreError(f"{where}: {width}x{height} pixels; aligned square images were expected")
        if height != SIZE:
            image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(image[..., ::-1]) if source.stored != self.sees else image


class Shown(NamedTuple):
    """Whom the n images of a source show: identities [m] int64, rising; labels [n, 2] and weights [n, 2]."""

    identities: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def shown_by(source: Source, rows: np.ndarray) -> Shown:
    """Whom these rows of a source show, as ranks among all who are in one of them.

    Raises:
        StoreError: an image shows an identity that is not in the set.
    """
    own = source.faces.identity[rows]
    partner, ratio = own, np.ones(len(rows))
    if source.faces.mixtures:
        partner, ratio = (column[rows] for column in source.faces.mixtures)
        if (partner < 0).any():
            where = source.faces.where(int(rows[np.argmax(partner < 0)]))
            raise StoreError(f"{where}: shows an identity too that is not in the set; name the set as a whole")
    identities, labels = np.unique(np.stack([own, partner], axis=1), return_inverse=True)
    return Shown(identities, labels.reshape(-1, 2), np.stack([ratio, 1 - ratio], axis=1).astype(np.float32))


def load(data: FaceDataset, keys: Iterable[list[Key]], workers: int = 0, pinned: bool = False) -> DataLoader:
    """The batches of keys, read and augmented in so many processes, ahead; `pinned` in memory for a GPU."""
    return DataLoader(
        data,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        prefetch_factor=AHEAD if workers else None,
        worker_init_fn=_alone,
    )


def _alone(worker: int) -> None:
    cv2.setNumThreads(0)


def _as_it_is(batch: Any) -> Any:
    return batch
