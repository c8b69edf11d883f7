"""What a training recorded of every step, as a CSV of few rows."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.store import replacing

ROWS = 200  # of a curve, at most


def write_curve(
    path: Path,
    curve: Mapping[str, np.ndarray],
    row: Callable[[int, dict[str, float]], Mapping[str, Any]] | None = None,
) -> None:
    """Write what was recorded of each step, averaged down to at most `ROWS` rows.

    Args:
        path: of the CSV.
        curve: name -> [steps] float32.
        row: the cells of a row, by column, of the number of steps done by its end and the means over its steps; by
            default `step`, and the means to four digits.
    """
    names, values = list(curve), np.stack(list(curve.values()), axis=1)
    row = row or (lambda done, means: {"step": done} | {name: f"{mean:.4f}" for name, mean in means.items()})
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer: csv.DictWriter | None = None
        for window in np.array_split(np.arange(len(values)), min(ROWS, len(values))):
            means = values[window].mean(0, dtype=np.float64).tolist()
            cells = row(int(window[-1]) + 1, dict(zip(names, means, strict=True)))
            if writer is None:
                writer = csv.DictWriter(file, list(cells), lineterminator="\n")
                writer.writeheader()
            writer.writerow(cells)
