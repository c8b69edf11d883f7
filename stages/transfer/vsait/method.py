"""VSAIT to `synthesize`: every image by the generator of a Lightning checkpoint."""

from __future__ import annotations

import numpy as np

from stages.transfer.checkpoint import file_of
from stages.transfer.pixels import PixelMethod, Translate
from stages.transfer.unpaired import scaled
from stages.transfer.vsait.networks import apply, load_official


class Method(PixelMethod):
    """See `stages.transfer.method.Method`."""

    code = (
        "transfer/checkpoint",
        "transfer/unpaired",
        "transfer/vsait/method",
        "transfer/vsait/networks",
    )

    def load(self) -> Translate:
        """See `PixelMethod`."""
        generator = load_official(file_of(self.weights, ".ckpt")).g_net.to(self.device)

        def translated(images: np.ndarray) -> np.ndarray:
            return apply(generator, scaled(images, self.knobs.size))

        return translated
