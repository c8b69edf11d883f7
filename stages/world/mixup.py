"""Identity mixup (SynFace, Qiu et al. 2021) where a person is traits: someone between two people."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from stages.world.traits import Traits

WHOLE = ("identity", "seed", "hair_red")  # no numbers to be mixed; the first two seed strands, moles and freckles


def mix_traits(first: Traits, second: Traits, ratio: float) -> Traits:
    """ratio first + (1 - ratio) second in every trait that is a number; the rest is the larger share's.

    At a ratio of 1 it is the first person and at 0 the second, and the two may change places with 1 - ratio.
    """
    larger = first if ratio >= 0.5 else second

    def mixed(name: str) -> Any:
        one, other = getattr(first, name), getattr(second, name)
        if name in WHOLE:
            return getattr(larger, name)
        if isinstance(one, tuple):
            return tuple(ratio * a + (1 - ratio) * b for a, b in zip(one, other, strict=True))
        between = ratio * one + (1 - ratio) * other
        return round(between) if name == "moles" else between

    return Traits(**{field.name: mixed(field.name) for field in fields(Traits)})
