"""StyleGAN inversion to `synthesize`: every image painted again by a generator of the target domain."""

from __future__ import annotations

import numpy as np

from stages.align.mtcnn import MTCNN
from stages.store import StoreError, fingerprint
from stages.transfer.checkpoint import file_of
from stages.transfer.pixels import PixelMethod, Translate
from stages.transfer.points import points_in
from stages.transfer.stylegan.files import OFFICIAL, load_inverter
from stages.transfer.stylegan.inversion import Inversion, apply, check_model
from stages.transfer.stylegan.perceptual import RandomFeatures, load_lpips
from stages.transfer.stylegan.projector import Projection


class Method(PixelMethod):
    """See `stages.transfer.method.Method`."""

    code = (
        "align/mtcnn",
        "align/warp",
        "transfer/checkpoint",
        "transfer/ffhq",
        "transfer/points",
        "transfer/stylegan/encoders",
        "transfer/stylegan/files",
        "transfer/stylegan/inversion",
        "transfer/stylegan/method",
        "transfer/stylegan/networks",
        "transfer/stylegan/perceptual",
        "transfer/stylegan/projector",
        "transfer/vsait/features",
    )
    without = OFFICIAL

    def origin(self, identity: int) -> list[str]:
        """See `stages.transfer.method.Method`; the perceptual network counts by its content, too."""
        perceptual = self.knobs.perceptual
        return [*super().origin(identity), *([fingerprint(self.root / perceptual)] if perceptual else [])]

    def load(self) -> Translate:
        """See `PixelMethod`.

        Raises:
            StoreError: weights that are no generator's, or none with which the knobs' inversion can be done.
        """
        knobs = self.knobs
        projection = Projection(
            knobs.space,
            knobs.steps,
            knobs.lr,
            knobs.ramp_up,
            knobs.ramp_down,
            knobs.exploration,
            knobs.exploration_until,
            knobs.noise_weight,
        )
        settings = Inversion(knobs.inversion, projection, knobs.face, knobs.size or None, knobs.batch_size)
        path = file_of(self.weights, ".pt")
        model = load_inverter(path).to(self.device)
        perceptual = load_lpips(self.root / knobs.perceptual) if knobs.perceptual else RandomFeatures()
        perceptual.to(self.device)
        try:
            check_model(model, settings, perceptual)
        except ValueError as error:
            raise StoreError(f"{path}: {error}; {OFFICIAL}") from error
        mtcnn = MTCNN(device=self.device) if knobs.points == "detected" else None

        def painted(images: np.ndarray) -> np.ndarray:
            points = None if knobs.points == "none" else np.stack([points_in(image, mtcnn) for image in images])
            return apply(model, images, settings, points, perceptual)

        return painted
