"""The knobs of `report`."""

from __future__ import annotations

from stages.knobs import knob, knobs


@knobs("report")
class Report:
    """The report."""

    rows: int = knob(8, "identities of a sample sheet", ge=1)
    columns: int = knob(8, "images of an identity", ge=1)
