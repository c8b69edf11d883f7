"""CodeFormer to `synthesize`: every image restored with the prior of the faces that it learned."""

from __future__ import annotations

import numpy as np

from stages.align.mtcnn import MTCNN
from stages.knobs import check
from stages.transfer.codeformer.knobs import weights_file
from stages.transfer.codeformer.networks import OFFICIAL, load_codeformer
from stages.transfer.codeformer.restoration import FFHQ_POINTS, Restoration, apply
from stages.transfer.pixels import PixelMethod, Translate


class Method(PixelMethod):
    """See `stages.transfer.method.Method`."""

    code = (
        "align/mtcnn",
        "transfer/checkpoint",
        "transfer/codeformer/method",
        "transfer/codeformer/networks",
        "transfer/codeformer/restoration",
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
            return apply(network, images, settings, None if mtcnn is None else face_points(images, mtcnn))

        return restored


def face_points(images: np.ndarray, mtcnn: MTCNN) -> np.ndarray:
    """Five points of the largest face of each image, [n, h, w, 3] uint8 -> [n, 5, 2] px.

    An image in which none is found counts as an aligned one: its points are where FFHQ's template has them.
    """
    found = [mtcnn.detect([image])[0] for image in images]  # one by one: an image depends on itself only
    whole = FFHQ_POINTS / 512 * images.shape[2:0:-1]
    return np.stack([faces.landmarks[0] if len(faces) else whole for faces in found])
