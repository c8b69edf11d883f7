"""The knobs of `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.knobs import Device, knob, knobs

Rate = Annotated[float, Field(gt=0, lt=1)]


@knobs("evaluate")
class Evaluate:
    """The protocols; the defaults are insightface's."""

    flip: bool = knob(True, "add the embedding of the mirror image (F1 of the template variants)")
    protocol: Literal["insightface", "adaface"] = knob(
        "insightface", "accuracy over folds; both have one rule, and the name stands beside the numbers"
    )
    norm: bool = knob(True, "templates: keep the norm of an embedding (N1)")
    detector: bool = knob(True, "templates: weigh an image with its detector score (D1)")
    nearest_far: bool = knob(
        True, "templates: TAR at the FAR nearest to the asked one, as published; false: not above it"
    )
    search: Literal["insightface", "galleries"] = knob(
        "insightface", "insightface (both galleries as one) | galleries (each by itself, the mean)"
    )
    far: tuple[Rate, ...] = knob(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "rates; left out where finer than one impostor pair"
    )
    batch_size: int = knob(128, "images", ge=1)
    device: Device = knob("auto", "auto | cpu | cuda")
