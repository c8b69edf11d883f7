"""The knobs of method `synface`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.knobs import check, knob, knobs
from stages.transfer.identity_mixup import Share, check_ratios
from stages.transfer.method import LEARNED, MethodKnobs

if TYPE_CHECKING:
    from stages.params import Params
    from stages.run.machine import Machine

RENDERED = 10.0  # images a second and core, each with a head of its own


@knobs("transfer")
class Knobs(MethodKnobs):
    """The embedded world's people, rendered with identities mixed."""

    weights: str = knob(LEARNED, "of a method that learns, what `fit` learned")
    identity_mixup: tuple[Share, ...] = knob(
        (), "the own identity's share, one of these for each image (SynFace's code: 0, 0.05, ..., 1); empty is off"
    )

    def seconds(self, root: Path, machine: Machine) -> float:
        """See `MethodKnobs`."""
        return 1 / RENDERED / machine.cores

    def check(self, params: Params) -> None:
        """See `MethodKnobs`."""
        check_ratios(self.identity_mixup, params.n_ids)
        check(
            params.fetch.source == "embedded",
            f"fetch.source is {params.fetch.source}, but method synface renders the embedded world's people: embedded",
        )
