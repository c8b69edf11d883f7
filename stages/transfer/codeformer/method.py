"""CodeFormer to `synthesize`: every image restored with the prior of the faces that it learned."""

from __future__ import annotations

import numpy as np

from stages.align.mtcnn import MTCNN
from stages.knobs import check
from stages.transfer.codeformer.knobs import weights_file
from stages.transfer.codeformer.networks import OFFICIAL, load_codeformer
from stages.transfer.codeformer.restoration import FFHQ_POINTS, Restoration, apply
from stages.transfer.pixels import PixelMethod, Translate
from stages.transfer.points import points_in

WHOLE = FFHQ_POINTS / 512  # of an image in which no face is found: it counts as an aligned one


class Method(PixelMethod):
    """See `stages.transfer.method.Method`."""

    code = (
        "align/mtcnn",
        "align/warp",
        "transfer/checkpoint",
        "transfer/codeformer/method",
        "transfer/codeformer/networks",
        "transfer/codeformer/restoration",
        "transfer/points",
    )
    without = OFFICIAL

    def load(self) -> Translate:
        """See `PixelMethod`.

        Raises:
            ParamsError: the weights are of another size than the knob `transfer.size`.
        """
        knobs = self.knobs
        network = load_codeformer(weights_file(self.weights)).to(self.device)
        check(network.size == knobs.size, f"transfer.size is {knobs.size}, but {self.weights} is of {network.size} px")
        settings = Restoration(
            w=knobs.w,
            adain=knobs.adain,
            gray_threshold=knobs.gray_threshold,
            size=knobs.output or None,
            batch=knobs.batch_size,
        )
        mtcnn = MTCNN(device=self.device) if knobs.alignment == "unaligned" else None

        def restored(images: np.ndarray) -> np.ndarray:
            if mtcnn is None:
                return apply(network, images, settings)
            return apply(network, images, settings, np.stack([points_in(image, mtcnn, WHOLE) for image in images]))

        return restored
