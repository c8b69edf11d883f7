"""Five points of each image, as IJB's and RFW's files give them, and lines that must not contradict each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluate.readers.text import broken


def parse_points(path: Path, line: int, fields: list[str]) -> np.ndarray:
    """Five points from ten fields x, y: [5, 2] float32.

    Raises:
        StoreError: something else, or five times one point.
    """
    try:
        points = np.array(fields, np.float32).reshape(5, 2)
    except ValueError:
        points = np.full((5, 2), np.nan, np.float32)
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() == 0:
        raise broken(path, line, f"landmarks {' '.join(fields)!r}", "five points x y in px were expected")
    return points


def line_of_each(path: Path, keys: Sequence[Hashable], values: Sequence[Any], first: int = 1) -> dict[Hashable, int]:
    """The line in which each key stands first; row i of `keys`, and of what is said of them, is line i + `first`.

    Raises:
        StoreError: two lines say different things of one key.
    """
    row_of: dict[Hashable, int] = {}
    for row, key in enumerate(keys):
        before = row_of.setdefault(key, row)
        if before != row and not np.array_equal(values[before], values[row]):
            problem = f"says of {key} something else than line {before + first}"
            raise broken(path, row + first, problem, "remove the wrong one of the two")
    return {key: row + first for key, row in row_of.items()}
