"""What a transfer method learns from unlabelled source and target images, before it makes any.

    r2r fit

Identity labels never reach it. A method that learns nothing, or whose `transfer.weights` names a file, leaves
`data/fit` empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.knobs import knob, knobs
from stages.store import nothing, write_json

if TYPE_CHECKING:
    from stages.params import Params


@knobs("fit")
class Fit:
    """What a method learns from."""

    source_images: int = knob(1000, "drawn by seed", ge=1)
    target_images: int = knob(1000, "drawn by seed", ge=1)


def run(params: Params, root: Path = Path(".")) -> None:
    """Leave `data/fit` and `plots/fit` empty, and say so in `metrics/fit.json`: none of today's methods learns."""
    for folder in ("data/fit", "plots/fit"):
        nothing(root / folder, f"method {params.method} learns nothing")
    write_json(root / "metrics/fit.json", {"images": 0})
