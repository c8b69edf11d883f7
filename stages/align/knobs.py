"""The knobs of `align`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.knobs import Codec, Device, knob, knobs

Threshold = Annotated[float, Field(ge=0, lt=1)]


@knobs("align")
class Align:
    """MTCNN and the five-point warp; the defaults are facenet-pytorch's."""

    thresholds: tuple[Threshold, Threshold, Threshold] = knob((0.6, 0.7, 0.7), "of P-, R- and O-Net, probabilities")
    factor: float = knob(0.709, "of the image pyramid", gt=0, lt=1)
    min_face: int = knob(20, "px; at least 12, P-Net's field", ge=12)
    missing: Literal["skip", "keep"] = knob("skip", "an image without a face: left out, or its centre crop")
    codec: Codec = knob("png", "of the aligned images")
    ids_per_shard: int = knob(64, "numbers of identities that one shard's range spans", ge=1)
    device: Device = knob("auto", "auto | cpu | cuda")
