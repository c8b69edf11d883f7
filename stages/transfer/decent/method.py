"""DECENT to `synthesize`: every image by the generator of `latest_net_G.pth`."""

from __future__ import annotations

import numpy as np

from stages.transfer.decent.networks import apply, load_official
from stages.transfer.pixels import PixelMethod, Translate
from stages.transfer.unpaired import generator_file, scaled


class Method(PixelMethod):
    """See `stages.transfer.method.Method`."""

    code = (
        "transfer/checkpoint",
        "transfer/cut",
        "transfer/decent/method",
        "transfer/decent/networks",
        "transfer/unpaired",
    )

    def load(self) -> Translate:
        """See `PixelMethod`."""
        generator = load_official(generator_file(self.weights)).to(self.device)

        def translated(images: np.ndarray) -> np.ndarray:
            return apply(generator, scaled(images, self.knobs.size))

        return translated
