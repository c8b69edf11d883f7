"""Realism transfer: rendered identities in, images that look like the target domain out.

One folder or module a method, named as the knob `method` names it. A method learns from unlabelled source and target
data only, and its images of an identity depend on that identity and the parameters, never on what is made beside them.
"""

from __future__ import annotations

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
