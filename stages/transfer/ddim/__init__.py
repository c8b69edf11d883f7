"""DDIM inversion: noise an image by an unconditional diffusion model of photographs, and denoise it again.

`prior` reads the model from a diffusers folder, `inversion` runs it there and back.
"""

from __future__ import annotations

from stages.transfer.ddim.inversion import Inversion, apply, round_trip
from stages.transfer.ddim.prior import Prior, load_prior

__all__ = ["Inversion", "Prior", "apply", "load_prior", "round_trip"]
