"""What a method that learns is to the stage `fit`.

Notation: n images of a batch, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Learner(Protocol):
    """The networks and optimisers of a method in training.

    Attributes:
        parts: all that a step changes, by name, each with `state_dict` and `load_state_dict`.
        losses: names of what a step gives back.
    """

    parts: Mapping[str, Any]
    losses: Sequence[str]

    def step(self, source: Tensor, target: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        """One step of the official order of updates; what it draws comes from the generator alone.

        Args:
            source, target: [n, 3, h, w] float32 in [-1, 1], unpaired.
            generator: of this step.
        """

    def translate(self, images: np.ndarray) -> np.ndarray:
        """Map images [n, h, w, 3] uint8 RGB by the weights as they are, for the sheet."""

    def save(self, folder: Path) -> None:
        """Write the weights in the method's official file layout."""
