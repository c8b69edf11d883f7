"""What a realism-transfer method is to the rest of the house.

A method learns from unlabelled source and target data only, and its images of an identity depend on that identity and
the parameters, never on what is made beside them.

Notation: n images of an identity, k source images of it, d dimensions of an encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from stages.images import Mixtures

if TYPE_CHECKING:
    from pathlib import Path

    from stages.params import Params
    from stages.run.machine import Machine

LEARNED = "data/fit"  # the value of `transfer.weights` that means what the stage `fit` learned


class MethodKnobs:
    """What a method's block of knobs says of the method beside its values.

    makes_images: False where the rendered images are taken as they are; has_gap: whether it adds a domain gap to a
    conditioning (stage `gap`); learns: whether it has something to learn from unlabelled images (stage `fit`);
    a_gpu: processes that share a GPU.
    """

    makes_images: ClassVar[bool] = True
    has_gap: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    a_gpu: ClassVar[int] = 1

    @property
    def device(self) -> str:
        """Of torch: auto, cpu or cuda; a method with a network makes it a knob."""
        return "auto"

    @property
    def threads(self) -> int:
        """Of torch on a CPU, of each process; likewise."""
        return 1

    @property
    def side(self) -> int:
        """Of its images, px."""
        return 112

    @property
    def gpu_bytes(self) -> int:
        """What it takes of a GPU's memory, about."""
        return 0

    def paths(self) -> dict[str, str]:
        """The files and folders that its knobs name, by knob."""
        return {}

    def seconds(self, root: Path, machine: Machine) -> float:
        """About how long it takes to make an image on this machine."""
        return 0.0

    def check(self, params: Params) -> None:
        """Refuse knobs that do not fit each other.

        Raises:
            ParamsError: with the knobs, their values and what was expected.
        """


@dataclass(frozen=True)
class Portraits:
    """The n images that a method made of one identity."""

    images: Sequence[np.ndarray]  # n of [h, w, 3] uint8, RGB
    sample: np.ndarray  # [n] int32, numbers of the images within the identity
    t: np.ndarray  # [n] float32 in [0, 1], way from the prototype to a source image; NaN where a method has none
    seed: np.ndarray  # [n] int64, of an image's noise; 0 where a method draws none
    mixtures: Mixtures | None = None  # who else is in them (identity mixup)


class Method(Protocol):
    """A realism-transfer method, ready to make images. Weights are loaded when the first image is asked for."""

    def origin(self, identity: int) -> Any:
        """What an identity's images are made from, code included, as a JSON value for `fingerprint`.

        Raises:
            StoreError: the source knows no such identity.
        """

    def portraits(self, identity: int) -> Portraits:
        """Make all images of one identity."""

    def asked(self, identity: int, embeddings: np.ndarray) -> np.ndarray:
        """Whom the images of an identity are to show, in the space of an encoder that its source images were seen by.

        Args:
            identity: its number.
            embeddings: [k, d], of the source images in the order of their numbers.

        Returns:
            [n, d], unit norm; NaN where the identity's images do not tell.
        """


def seed_of(*key: int | str) -> int:
    """A seed in [0, 2**63) that depends on the whole key and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
