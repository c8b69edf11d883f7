"""ONNX encoders of one layer, in the forms in which people export them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = (np.random.default_rng(1).normal(size=(3 * 49, 16)) * 0.1).astype(np.float32)


def by_hand(images: np.ndarray) -> np.ndarray:
    """What the layer makes of [n, 112, 112, 3] uint8 RGB: [n, 16]."""
    values = (images.astype(np.float64) - 127.5) / 127.5
    pooled = values.reshape(-1, 7, 16, 7, 16, 3).mean(axis=(2, 4))
    return pooled.transpose(0, 3, 1, 2).reshape(len(images), -1) @ WEIGHTS


def one_layer(
    path: Path,
    shape: Sequence[int | str] = ("n", 3, 112, 112),
    dtype: int = TensorProto.FLOAT,
    out: int = TensorProto.FLOAT,
    steps: Sequence[tuple[str, float, str]] = (),
    outputs: Sequence[str] = ("embedding",),
    reshape: Sequence[int] = (),
    act: str = "",
) -> Path:
    """Write an encoder: the means of 16 x 16 px through a matrix.

    Args:
        path: where to.
        shape: of the input; with 3 at its end the images are transposed first.
        dtype: of the input.
        out: type of the embedding.
        steps: operator, constant and node's name of what is done to the input first.
        outputs: of `embedding`, `norm` [n, 1] and `map` [n, 3, 7, 7].
        reshape: a shape that the pooled map is brought to, in the place of flattening it.
        act: node names of a leaky ReLU made of Mul and Sub, `{act}_Mul` and so on, in front of the matrix.
    """
    nodes: list[Any] = []
    constants = {"W": WEIGHTS}
    value = "x"

    def add(operator: str, inputs: list[str], name: str = "", **more: Any) -> str:
        result = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [result], name=name, **more))
        return result

    if shape[-1] == 3:
        value = add("Transpose", [value], perm=[0, 3, 1, 2])
    if dtype != TensorProto.FLOAT:
        value = add("Cast", [value], to=TensorProto.FLOAT)
    for number, (operator, constant, name) in enumerate(steps):
        constants[f"c{number}"] = np.float32(constant)
        value = add(operator, [value, f"c{number}"], name)
    pooled = add("AveragePool", [value], "pool", kernel_shape=[16, 16], strides=[16, 16])
    value = pooled
    if act:
        constants |= {"minus": np.float32(-1), "slope": np.float32(0.25)}
        positive = add("Relu", [value])
        negative = add("Mul", [add("Relu", [add("Mul", [value, "minus"], f"Mul{act}")]), "slope"], f"Mul{act}2")
        value = add("Sub", [positive, negative], f"Sub{act}")
    if reshape:
        constants["shape"] = np.array(reshape, np.int64)
        value = add("Reshape", [value, "shape"])
    else:
        value = add("Flatten", [value])
    value = add("MatMul", [value, "W"])
    made = {"embedding": value, "map": pooled, "norm": add("ReduceL2", [value], axes=[1], keepdims=1)}
    sizes = {"embedding": [shape[0], 16], "norm": [shape[0], 1], "map": [shape[0], 3, 7, 7]}
    for name in outputs:
        kind = out if name == "embedding" else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", [made[name]], [name], to=kind))
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", dtype, list(shape))],
        [
            helper.make_tensor_value_info(name, out if name == "embedding" else TensorProto.FLOAT, sizes[name])
            for name in outputs
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path
