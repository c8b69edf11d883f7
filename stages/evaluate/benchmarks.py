"""What a benchmark is once it is read: images, and pairs, templates or groups over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.store import StoreError


class ProtocolError(StoreError):
    """What a protocol cannot be measured on, such as fewer pairs than folds; the message says what and where."""


@dataclass(frozen=True)
class Landmarks:
    """Five points of each image, given by the benchmark.

    points: [n, 5, 2] float32, px of the image as stored; path and lines [n]: where they stand, for messages.
    """

    points: np.ndarray
    path: Path
    lines: np.ndarray


@dataclass(frozen=True)
class Images:
    """The images of a benchmark, read one by one.

    Attributes:
        names: n names, for messages and picture sheets.
        encoded: image number -> its encoded bytes.
        digest: identity of the content, for the cache of embeddings.
        aligned: already warped to the network's size.
        landmarks: what to warp by, where the benchmark says.
    """

    names: Sequence[str]
    encoded: Callable[[int], bytes]
    digest: str
    aligned: bool = False
    landmarks: Landmarks | None = None

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs in consecutive folds.

    first, second: [p] image numbers; same: [p] bool; folds: how many.
    """

    name: str
    images: Images
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    folds: int = 10


@dataclass(frozen=True)
class Search:
    """The 1:N protocol: template and subject numbers, [g, 2] int64 of each gallery and [q, 2] of the probes."""

    galleries: tuple[np.ndarray, ...]
    probes: np.ndarray


@dataclass(frozen=True)
class Templates:
    """Sets of images, and pairs of sets.

    Attributes:
        image, template, media: [r] int64, one row for each use of an image in a template.
        detector_scores: [n] float32, the detector's confidence in each image.
        first, second: [p] int64 template numbers; same: [p] bool.
        unused: images that are listed with landmarks and are in no template; they are not read.
        search: the 1:N protocol, where its files are present.
    """

    name: str
    images: Images
    image: np.ndarray
    template: np.ndarray
    media: np.ndarray
    detector_scores: np.ndarray
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    unused: int = 0
    search: Search | None = None


@dataclass(frozen=True)
class Groups:
    """Pairs of each of several groups of people."""

    name: str
    groups: dict[str, Pairs]


Benchmark = Pairs | Templates | Groups
