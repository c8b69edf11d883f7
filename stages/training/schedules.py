"""How a learning rate moves, as factors of its highest value. All lengths are in one unit: steps, or epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence


def warmup(at: float, length: float) -> float:
    """Rises linearly from 0 to 1 at `length`, and stays there."""
    return at / length if at < length else 1.0


def cosine(at: float, length: float) -> float:
    """Falls from 1 to 0 at `length` as half a period of a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * at / length)) if at < length else 0.0


def multistep(at: float, milestones: Sequence[float], factor: float = 0.1) -> float:
    """Is multiplied by `factor` at each of the milestones."""
    return factor ** sum(at >= milestone for milestone in milestones)
