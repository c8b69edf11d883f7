"""Which images an epoch shows, and in which order: a function of the seed and the epoch.

Every epoch is drawn anew, whole, so that a resumed run goes on at the exact next image, and the processes that read
have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

ORDER, CHOICE = 1, 3  # apart from each other, and from the augmentations, in a generator's seed
RUN = 512  # images that lie together and are read together, a few megabytes

Key = tuple[int, int, int]  # epoch, image, and which of its showings in the epoch


@dataclass(frozen=True)
class Order:
    """An epoch's images, by number from 0 to n, and how many of an image's showings come before.

    Attributes:
        source: [n] of each image its source's number, rising.
        label: [n] of each image its identity's.
        place: [n] in which order they lie.
        seed: of choice and order.
        weights: of each source, how often an epoch shows its images; a fraction is of a choice that each epoch makes.
        balanced: an identity of a source is shown as often as any other, or once more, and so are its images.
        buffer: images; 0 is a permutation of all. Else runs of `RUN` images that lie together follow each other in
            random order, and each image moves back by a random number up to `buffer`: a batch then comes from about
            1 + buffer / RUN places of the sets.
    """

    source: np.ndarray
    label: np.ndarray
    place: np.ndarray
    seed: int
    weights: Sequence[float] = (1.0,)
    balanced: bool = False
    buffer: int = 0

    def __len__(self) -> int:
        """Images of an epoch."""
        return int(self._per_source().sum())

    def __call__(self, epoch: int) -> np.ndarray:
        """Image and showing: [len(self), 2] int64."""
        shown = self._choose(np.random.default_rng([self.seed, CHOICE, epoch]))
        rng = np.random.default_rng([self.seed, ORDER, epoch])
        if not self.buffer:
            return shown[rng.permutation(len(shown))]
        shown = shown[np.lexsort((self.place[shown[:, 0]], self.source[shown[:, 0]], shown[:, 1]))]
        run, within = np.divmod(np.arange(len(shown)), RUN)
        place = rng.permutation(run[-1] + 1)[run] * RUN + within + rng.uniform(0, self.buffer, len(shown))
        return shown[np.argsort(place, kind="stable")]

    def _per_source(self) -> np.ndarray:
        return np.rint(np.bincount(self.source) * np.asarray(self.weights)).astype(int)

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        group, quota = self.source, self._per_source()
        if self.balanced:
            group, per_source = self.label, quota
            source = np.zeros(self.label.max() + 1, int)
            source[self.label] = self.source  # of each identity
            lucky = _rank(source, rng.random(len(source)))  # who is shown once more
            identities = np.bincount(source)
            quota = per_source[source] // identities[source] + (lucky < (per_source % identities)[source])
        size = np.bincount(group)
        if np.array_equal(size, quota):
            return np.stack([np.arange(len(group)), np.zeros(len(group), int)], axis=1)
        times = -(-quota // size)[group]
        image = np.repeat(np.arange(len(group)), times)
        showing = np.arange(len(image)) - np.repeat(np.cumsum(times) - times, times)
        kept = _rank(group[image], showing + rng.random(len(image))) < quota[group[image]]
        return np.stack([image[kept], showing[kept]], axis=1)


def _rank(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The rank of each value among those of its group: [n] int64."""
    order = np.lexsort((value, group))
    first = np.cumsum(np.bincount(group)) - np.bincount(group)
    rank = np.empty(len(group), int)
    rank[order] = np.arange(len(group)) - first[group[order]]
    return rank


def epoch_steps(images: int, batch_size: int, keep: bool = False) -> int:
    """Batches of an epoch; with `keep`, the images that do not fill the last one make a smaller one."""
    return -(-images // batch_size) if keep else images // batch_size


def batches(order: Order, batch_size: int, start: int, stop: int, keep: bool = False) -> Iterator[list[Key]]:
    """The keys of the batches of steps start to stop; without `keep`, an epoch's last images may be left out."""
    steps = epoch_steps(len(order), batch_size, keep)
    drawn = -1
    for step in range(start, stop):
        epoch, k = divmod(step, steps)
        if epoch != drawn:
            drawn, shown = epoch, order(epoch)
        yield [(epoch, *key) for key in shown[k * batch_size : (k + 1) * batch_size].tolist()]
