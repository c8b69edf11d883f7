"""What measuring costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.run.machine import Machine, Work
from stages.train.costs import flops

if TYPE_CHECKING:
    from stages.params import Params

PAIRS, PER_TEMPLATE, GROUPS = 5, 14, 4  # benchmarks of pairs; images of a template; groups, of the embedded world
OFFICIAL = 12_000  # images of an official pair benchmark


def cost(params: Params, root: Path, machine: Machine) -> Work:
    """About how long it takes: each image and its mirror image once through the backbone."""
    knobs = params.fetch
    images = OFFICIAL * sum(name != "embedded" for name in knobs.benchmarks)
    if "embedded" in knobs.benchmarks:
        images += 2 * (PAIRS * knobs.pairs + GROUPS * knobs.group_pairs) + PER_TEMPLATE * knobs.templates
    views = images * (2 if params.evaluate.flip else 1)
    return Work(machine.seconds(views * flops(params.train.backbone), params.evaluate.device), f"{images:,} images")
