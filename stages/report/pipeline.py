"""The pipeline as a picture: where each stage stands, what flows to whom, and what this run put through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ABOVE, MIDDLE, BELOW = 12, 84, 156
# stage -> place, part of the page, what is said of it, the number that is 0 where it had nothing to do
STAGES = {
    "fetch": ((8, MIDDLE), "samples", "{source_images:,} images", ""),
    "embed": ((148, MIDDLE), "identities", "{dimension} dimensions", ""),
    "filter": ((288, MIDDLE), "identities", "{chosen:,} of {identities:,}", ""),
    "gap": ((288, ABOVE), "gap", "norm {norm:.3g}", "images"),
    "fit": ((288, BELOW), "fit", "{images:,} images", "images"),
    "synthesize": ((428, MIDDLE), "samples", "{images:,} images", "images"),
    "judge": ((568, BELOW), "judge", "cosine {identity_consistency:.2f}", "judged_images"),
    "align": ((568, MIDDLE), "samples", "{written:,} faces", ""),
    "train": ((708, MIDDLE), "training", "{steps:,} steps", ""),
    "evaluate": ((848, MIDDLE), "results", "{measured} benchmarks", ""),
}
# Without what goes a longer way too.
FLOWS = (
    ("fetch", "embed"),
    ("embed", "filter"),
    ("embed", "gap"),
    ("filter", "fit"),
    ("filter", "synthesize"),
    ("gap", "synthesize"),
    ("fit", "synthesize"),
    ("synthesize", "judge"),
    ("synthesize", "align"),
    ("align", "train"),
    ("train", "evaluate"),
)


@dataclass(frozen=True)
class Stage:
    """A box of the picture."""

    name: str
    place: tuple[int, int]
    anchor: str
    text: str
    idle: bool


def picture(metrics: Mapping[str, Mapping[str, Any]], measured: int) -> dict[str, Any]:
    """The boxes and the arrows, by the stages' metrics and the number of benchmarks."""
    stages = []
    for name, (place, anchor, text, works) in STAGES.items():
        numbers = {**metrics.get(name, {}), "measured": measured}
        idle = bool(works) and not numbers.get(works)
        try:
            said = "nothing to do" if idle else text.format(**numbers)
        except KeyError:  # a number that this run has not
            said = ""
        stages.append(Stage(name, place, "numbers" if idle else anchor, said, idle))
    return {"stages": stages, "flows": [(STAGES[a][0], STAGES[b][0]) for a, b in FLOWS]}
