"""DECENT (Xie et al. 2022): translation that changes the density of all of an image's patches by about the same factor.

`networks` are the official networks, `losses`, `optimiser` and `training` the official step.
"""

from __future__ import annotations

from stages.transfer.decent.networks import PatchDensityEstimator, apply, load_official
from stages.transfer.decent.training import DecentTraining

__all__ = ["DecentTraining", "PatchDensityEstimator", "apply", "load_official"]
