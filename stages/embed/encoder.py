"""The identity encoder: an ONNX file read by insightface's own class, as Digi2Real and Arc2Face use it.

`encoder.onnx` beside this file is the embedded world's (made by `pretrain/`); an official one, such as antelopev2's
`arcface.onnx`, is read alike. People export encoders in many forms: `Form` says which one a file has, and `_Session`
stands between it and insightface's class, which knows the official one.

Notation: n images, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.run import cores
from stages.store import StoreError

if TYPE_CHECKING:
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

SIZE = 112  # px
FLOATS = ("float32", "float16", "float64")
SHRINKS, SHIFTS = 0.1, 10  # of the a x + b that a network begins with: beyond them, x are pixels from 0 to 255


@dataclass(frozen=True)
class Form:
    """How an exported encoder takes images and gives embeddings.

    Attributes:
        input, output: their names; the output is the first of the form [n, d].
        batch: how many images it takes at once, 0 for any number.
        channels_last: [n, 112, 112, 3] and not [n, 3, 112, 112].
        dtype: of the input.
        normalises: it takes pixels as they are, from 0 to 255, and not (x - 127.5) / 127.5. insightface's class goes by
            the names of the first eight nodes (`by_names`), which tells the same of every official file, and the
            contrary of some others; here the graph tells, or an input of whole numbers.
    """

    input: str
    output: str
    batch: int
    channels_last: bool
    dtype: np.dtype
    normalises: bool


def read_form(path: Path) -> Form:
    """Read off an ONNX file in which form it is an encoder.

    Raises:
        StoreError: no such file, no ONNX file, or no encoder of 112 x 112 images; the message says what it has instead.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such encoder; set embed.encoder to an ONNX file, or make it with `pretrain/`")
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's exceptions share no base class but this
        raise StoreError(f"{path}: not an ONNX file ({error})") from error
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [_tensor(value) for value in graph.input if value.name not in constants]
    outputs = [_tensor(value) for value in graph.output]
    if len(inputs) != 1:
        raise StoreError(f"{path}: takes {_said(inputs)}; one input [n, 3, {SIZE}, {SIZE}] was expected")
    name, kind, shape = inputs[0]
    orders = {False: (3, SIZE, SIZE), True: (SIZE, SIZE, 3)}
    fits = [last for last, sizes in orders.items() if len(shape) == 4 and all(map(_is, shape[1:], sizes))]
    if not fits:
        wanted = f"[n, 3, {SIZE}, {SIZE}] or [n, {SIZE}, {SIZE}, 3]"
        raise StoreError(f"{path}: takes {_said(inputs)}; {wanted} was expected")
    if kind not in (*FLOATS, "uint8"):
        raise StoreError(f"{path}: takes {_said(inputs)}; {', '.join(FLOATS)} or uint8 was expected")
    found = [one for one in outputs if one[1] in FLOATS and len(one[2]) == 2 and one[2][1] != 1]
    if not found:
        raise StoreError(f"{path}: gives {_said(outputs)}; an output [n, d] of {' or '.join(FLOATS)} was expected")
    batch = shape[0] if isinstance(shape[0], int) else 0
    whole = kind == "uint8"
    return Form(name, found[0][0], batch, fits[0], np.dtype(kind), whole or _normalises(graph, name))


def _tensor(value: Any) -> tuple[str, str, list[int | str]]:
    """Name, type and sizes of an input or output; a size that the file leaves open is its name, or `?`."""
    import onnx

    kind = value.type.tensor_type
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except KeyError:  # of a sequence or a map
        dtype = "no tensor"
    return value.name, dtype, [one.dim_value or one.dim_param or "?" for one in kind.shape.dim]


def _is(size: int | str, wanted: int) -> bool:
    return isinstance(size, str) or size == wanted


def _said(tensors: Sequence[tuple[str, str, list[int | str]]]) -> str:
    return " and ".join(f"{name} {shape} of {kind}".replace("'", "") for name, kind, shape in tensors) or "nothing"


def _normalises(graph: Any, name: str) -> bool:
    """Whether the network's first steps are a normalisation of pixels, from 0 to 255, to about [-1, 1].

    From the input on, while one node takes it: what is subtracted and multiplied by constants, in all a x + b.
    """
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in graph.initializer}
    values |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    constants = {key: tensor for key, tensor in values.items() if not tensor.external_data}
    a, b = 1.0, 0.0
    while len(users := [node for node in graph.node if name in node.input]) == 1:
        (node,) = users
        others = [key for key in node.input if key != name]
        if node.op_type in ("Add", "Sub", "Mul", "Div") and len(others) == 1 and others[0] in constants:
            c = float(np.mean(numpy_helper.to_array(constants[others[0]])))
            if node.op_type in ("Add", "Sub"):
                b += c if node.op_type == "Add" else -c
            else:
                factor = c if node.op_type == "Mul" else 1 / c if c else 1.0
                a, b = a * factor, b * factor
        elif node.op_type not in ("Cast", "Identity", "Transpose"):
            break
        name = node.output[0]
    return abs(a) < SHRINKS or abs(b) > SHIFTS


def by_names(path: Path) -> bool:
    """What insightface's class makes of it: nodes among the first eight whose names begin with Sub and with Mul."""
    return _reader(path, _Session(read_form(path), None)).input_std == 1


def _reader(path: Path, session: _Session) -> ArcFaceONNX:
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    return ArcFaceONNX(str(path), session)


@dataclass(frozen=True)
class _Value:
    name: str
    shape: tuple[str | int, ...]


class _Session:
    """An onnxruntime session of any form as insightface's class knows it: [n, 3, 112, 112] float32 in, [n, d] out."""

    def __init__(self, form: Form, session: Any) -> None:
        self.form, self.session, self.batch = form, session, form.batch

    def get_inputs(self) -> list[_Value]:
        return [_Value(self.form.input, ("n", 3, SIZE, SIZE))]

    def get_outputs(self) -> list[_Value]:
        return [_Value(self.form.output, ("n", "d"))]

    def run(self, names: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        (images,) = feed.values()
        images = images.transpose(0, 2, 3, 1) if self.form.channels_last else images
        images = np.ascontiguousarray(images, self.form.dtype)
        n, step = len(images), self.batch or len(images)
        if n % step:
            images = np.concatenate([images, np.zeros((step - n % step, *images.shape[1:]), images.dtype)])
        parts = [
            self.session.run(names, {self.form.input: images[begin : begin + step]})[0] for begin in range(0, n, step)
        ]
        return [np.concatenate(parts)[:n].astype(np.float32, copy=False)]


def runtime() -> list[str]:
    """What an encoder runs on here, for a fingerprint: onnxruntime's version, and `cuda` or `cpu`."""
    import onnxruntime

    gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return [onnxruntime.__version__, "cuda" if gpu else "cpu"]


class Encoder:
    """A face encoder on the GPU where onnxruntime has one, else on the CPU.

    Args:
        path: an ONNX file; see `Form`.
        threads: of a CPU; 0 is one a core. They share out the work of an image and do not change its result.

    Attributes:
        dimension: d.
        device: `cpu`, `cuda` or another that onnxruntime has.

    Raises:
        StoreError: no such file, or not such a network.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        form = read_form(path)
        import onnxruntime
        from insightface.model_zoo.onnxruntime_utils import get_default_providers, preload_cuda_libraries

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # what it would log, it raises
        providers = get_default_providers()
        preload_cuda_libraries(providers)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions share no base class but this
            raise StoreError(f"{path}: not an ONNX file that onnxruntime reads ({error})") from error
        self.device = session.get_providers()[0].removesuffix("ExecutionProvider").lower()
        self._session = _Session(form, session)
        self.model = _reader(path, self._session)
        self.model.input_mean, self.model.input_std = (0.0, 1.0) if form.normalises else (127.5, 127.5)
        self.dimension = self._try(path)

    def _try(self, path: Path) -> int:
        """d; and image by image where the file promises batches and cannot keep it, as with a Reshape to [1, -1]."""
        for n in (3, 1) if self._session.batch == 0 else (1,):
            try:
                shape = self.embed(np.zeros((n, SIZE, SIZE, 3), np.uint8)).shape
            except Exception as error:  # onnxruntime's own exceptions share no base class but this
                fault = str(error)
            else:
                if len(shape) == 2 and shape[0] == n:
                    return shape[1]
                fault = f"{n} images give an output {list(shape)}"
            self._session.batch = 1
        raise StoreError(f"{path}: does not take images of {SIZE} x {SIZE} px ({fault.strip()})")

    def embed(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Embed a batch.

        insightface swaps the channels and scales to [-1, 1] by (x - 127.5) / 127.5, unless the network does it itself.

        Args:
            images: [n, 112, 112, 3] uint8, RGB.

        Returns:
            [n, d] float32, as the network gives them: not normalised.
        """
        return self.model.get_feat([image[..., ::-1] for image in images])
