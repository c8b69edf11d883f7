"""UNSB to `synthesize`: every image in `transfer.nfe` steps by the generator of `latest_net_G.pth`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from stages.transfer.method import Portraits
from stages.transfer.pixels import PixelMethod, Translate
from stages.transfer.unpaired import generator_file, scaled
from stages.transfer.unsb.bridge import Bridge, apply, noise_seed
from stages.transfer.unsb.networks import load_official


class Method(PixelMethod):
    """See `stages.transfer.method.Method`."""

    code = (
        "transfer/checkpoint",
        "transfer/cut",
        "transfer/unpaired",
        "transfer/unsb/bridge",
        "transfer/unsb/method",
        "transfer/unsb/networks",
    )

    def load(self) -> Translate:
        """See `PixelMethod`."""
        knobs, bridge = self.knobs, Bridge(self.knobs.timesteps, self.knobs.tau)
        generator = load_official(generator_file(self.weights), knobs.corrected).to(self.device)

        def translated(images: np.ndarray) -> np.ndarray:
            return apply(generator, scaled(images, knobs.size), knobs.nfe, self.params.seed, bridge=bridge)

        return translated

    def origin(self, identity: int) -> list[Any]:
        """See `stages.transfer.method.Method`; the noise is of the run's seed."""
        return [*super().origin(identity), self.params.seed]

    def portraits(self, identity: int) -> Portraits:
        """See `PixelMethod`."""
        shown = [scaled(self.source.image(row)[None], self.knobs.size)[0] for row in self.rows(identity)]
        seeds = np.array([noise_seed(self.params.seed, image) for image in shown], np.int64)
        return replace(super().portraits(identity), seed=seeds)
