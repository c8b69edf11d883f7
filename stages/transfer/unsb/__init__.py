"""UNSB (Kim et al. 2024): translation in a few steps along a Schrödinger bridge from the source to the target.

`networks` are the official networks, `bridge` walks along the bridge, `losses` and `training` are the official step.
"""

from __future__ import annotations

from stages.transfer.unsb.bridge import Bridge, apply
from stages.transfer.unsb.networks import Discriminator, Generator, PatchProjector, load_official
from stages.transfer.unsb.training import UNSBTraining

__all__ = ["Bridge", "Discriminator", "Generator", "PatchProjector", "UNSBTraining", "apply", "load_official"]
