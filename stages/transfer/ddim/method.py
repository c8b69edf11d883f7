"""DDIM inversion to `synthesize`: every image noised by a prior of the target domain, and denoised again."""

from __future__ import annotations

import numpy as np

from stages.align.mtcnn import MTCNN
from stages.align.warp import similarity, warp
from stages.knobs import check
from stages.store import StoreError
from stages.transfer.ddim.inversion import Inversion, apply
from stages.transfer.ddim.prior import OFFICIAL, load_prior
from stages.transfer.pixels import PixelMethod, Translate
from stages.transfer.points import points_in


class Method(PixelMethod):
    """See `stages.transfer.method.Method`."""

    code = (
        "align/mtcnn",
        "align/warp",
        "transfer/checkpoint",
        "transfer/ddim/inversion",
        "transfer/ddim/method",
        "transfer/ddim/prior",
        "transfer/ffhq",
        "transfer/points",
    )
    without = OFFICIAL

    def load(self) -> Translate:
        """See `PixelMethod`.

        Raises:
            StoreError: weights that are no prior.
            ParamsError: more steps than the prior was trained with.
        """
        knobs = self.knobs
        try:
            prior = load_prior(self.weights).to(self.device)
        except StoreError as error:
            raise StoreError(f"{error}; {OFFICIAL}") from error
        check(
            knobs.steps <= prior.times,
            f"transfer.steps is {knobs.steps}, but {self.weights} was trained with {prior.times}",
        )
        settings = Inversion(knobs.steps, knobs.depth, knobs.precision, knobs.size or None, knobs.batch_size)
        mtcnn = MTCNN(device=self.device)

        def painted(images: np.ndarray) -> np.ndarray:
            if knobs.face == "whole":
                return apply(prior, images, settings)
            points = np.stack([points_in(image, mtcnn) for image in images])
            if knobs.face == "ffhq":
                return apply(prior, images, settings, points)
            faces = [warp(image, matrix) for image, matrix in zip(images, similarity(points), strict=True)]
            return apply(prior, np.stack(faces), settings)

        return painted
