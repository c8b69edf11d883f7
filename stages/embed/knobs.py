"""The knobs of `embed`."""

from __future__ import annotations

from stages.knobs import knob, knobs


@knobs("embed")
class Embed:
    """The identity encoder."""

    encoder: str = knob("stages/embed/encoder.onnx", "an ONNX file that insightface's ArcFaceONNX reads")
    batch_size: int = knob(64, "images", ge=1)
    # off, since a DigiFace crop is fed as it is (docs/choices.md)
    align: bool = knob(False, "detect and warp first")
