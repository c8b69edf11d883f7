"""The identity encoder: an ONNX file read by insightface's own class, as Digi2Real and Arc2Face use it.

`encoder.onnx` beside this file is the embedded world's (made by `pretrain/`); an official one, such as antelopev2's
`arcface.onnx`, is read alike.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.onnxruntime_utils import get_default_providers, preload_cuda_libraries

from stages.store import StoreError

SIZE = 112  # px


class Encoder:
    """A face encoder on the GPU where onnxruntime has one, else on the CPU.

    Args:
        path: an ONNX file with one input [n, 3, 112, 112] and one output [n, d].
        threads: of a CPU; 0 is one a core. They share out the work of an image and do not change its result.

    Raises:
        StoreError: no such file, or not such a network.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        if not path.is_file():
            raise StoreError(f"{path}: no such encoder; set embed.encoder to an ONNX file, or make it with `pretrain/`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.use_deterministic_compute = True
        providers = get_default_providers()
        preload_cuda_libraries(providers)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions share no base class but this
            raise StoreError(f"{path}: not an ONNX file that onnxruntime reads ({error})") from error
        shapes = [value.shape for value in (*session.get_inputs(), *session.get_outputs())]
        if len(shapes) != 2 or shapes[0][1:] != [3, SIZE, SIZE] or len(shapes[1]) != 2:
            raise StoreError(
                f"{path}: its inputs and outputs are {shapes}; [n, 3, {SIZE}, {SIZE}] and [n, d] were expected"
            )
        self.model = ArcFaceONNX(str(path), session)
        self.dimension: int = self.embed(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape[1]

    def embed(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Embed a batch.

        insightface swaps the channels and scales to [-1, 1] by (x - 127.5) / 127.5, unless the network does it itself.

        Args:
            images: [n, 112, 112, 3] uint8, RGB.

        Returns:
            [n, d] float32, as the network gives them: not normalised.
        """
        return self.model.get_feat([image[..., ::-1] for image in images])
