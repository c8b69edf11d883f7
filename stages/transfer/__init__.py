"""Realism transfer: rendered identities in, images that look like the target domain out.

One folder or module a method, named as the knob `method` names it. A method learns from unlabelled source and target
data only, and its images of an identity depend on that identity and the parameters, never on what is made beside them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Portraits:
    """The n images that a method made of one identity."""

    images: np.ndarray  # [n, h, w, 3] uint8, RGB
    sample: np.ndarray  # [n] int32, numbers of the images within the identity
    t: np.ndarray  # [n] float32 in [0, 1], way from the prototype to a source image; NaN where a method has none
    seed: np.ndarray  # [n] int64, of an image's noise; 0 where a method draws none


class Transfer(Protocol):
    """A realism-transfer method, ready to make images."""

    def origin(self, identity: int) -> Any:
        """What an identity's images are made from beside the code, as a JSON value for `fingerprint`.

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
            [n, d], unit norm.
        """


def seed_of(*key: int | str) -> int:
    """A seed in [0, 2**63) that depends on the whole key and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
