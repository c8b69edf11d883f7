"""VSAIT (Theiss et al. 2022): translation that must keep an image's hypervectors, but for what tells the domains apart.

`networks` are the official networks, `features` what the hypervectors are made of, `losses` and `training` the official
step.
"""

from __future__ import annotations

from stages.transfer.vsait.features import RandomFilters, VGG19Features, load_vgg19
from stages.transfer.vsait.networks import VSAIT, Generator, apply, load_official
from stages.transfer.vsait.training import VSAITTraining

__all__ = [
    "VSAIT",
    "Generator",
    "RandomFilters",
    "VGG19Features",
    "VSAITTraining",
    "apply",
    "load_official",
    "load_vgg19",
]
