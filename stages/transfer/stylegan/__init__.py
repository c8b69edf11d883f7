"""StyleGAN2 inversion: paint a rendered face again with a generator of photographs.

`networks` and `encoders` are the official networks, `files` reads their files, `projector` finds styles by
optimisation, `inversion` runs it all on images.
"""

from __future__ import annotations

from stages.transfer.stylegan.files import Inverter, load_generator, load_inverter
from stages.transfer.stylegan.inversion import Inversion, apply
from stages.transfer.stylegan.projector import Projection

__all__ = ["Inversion", "Inverter", "Projection", "apply", "load_generator", "load_inverter"]
