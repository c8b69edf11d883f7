"""The knobs of method `none`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stages.knobs import check, knob, knobs
from stages.transfer.method import MethodKnobs

if TYPE_CHECKING:
    from stages.params import Params


@knobs("transfer")
class Knobs(MethodKnobs):
    """No images are made: `align` reads the source."""

    makes_images: ClassVar[bool] = False

    weights: str = knob("data/fit", "of a method that learns, what `fit` learned")

    def check(self, params: Params) -> None:
        """See `MethodKnobs`."""
        has = params.fetch.source_images_per_id
        check(
            params.fetch.source != "embedded" or params.images_per_id <= has,
            f"images_per_id is {params.images_per_id}, but method none has only the source's "
            f"fetch.source_images_per_id = {has} images of an identity",
        )
