"""CodeFormer: render a face again from a codebook of photographed face parts (Syn2Auth's best method).

`networks` are the official networks, `restoration` runs them on face crops, `training` is the official three stages.
"""

from __future__ import annotations

from stages.transfer.codeformer.networks import CodeFormer, load_codeformer, load_vqgan
from stages.transfer.codeformer.restoration import Restoration, apply

__all__ = ["CodeFormer", "Restoration", "apply", "load_codeformer", "load_vqgan"]
