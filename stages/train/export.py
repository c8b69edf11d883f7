"""A trained backbone as an ONNX encoder (`r2r export --backbone FILE --out encoder.onnx`).

insightface's `ArcFaceONNX` reads it: one input [n, 3, 112, 112], RGB, (x - 127.5) / 127.5, and one output [n, d], raw.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from stages.store import replacing
from stages.train.backbones import SIZE, load_backbone

LARGE = 1024  # values; smaller weights (norms, biases) stay float32


def export(backbone: Path, out: Path, half: bool = True) -> None:
    """Write a backbone's ONNX file; equal weights give equal bytes.

    Args:
        backbone: any checkpoint that `load_backbone` reads; of a network that sees BGR, the first convolution's input
            channels are turned round, so that the ONNX file sees RGB.
        out: the file to write.
        half: store the large weights as float16, in half the space, with a cast to float32 that a runtime does once,
            when it loads them. Embeddings move by less than 1e-3 of their length.

    Raises:
        StoreError: not a checkpoint.
    """
    network, card = load_backbone(backbone)
    if card.channels == "bgr":
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.weight.data = first.weight.data.flip(1)
    with replacing(out) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that torch prefers needs onnxscript
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, SIZE, SIZE),),
            partial,
            dynamo=False,
            opset_version=17,
            input_names=["input.1"],
            output_names=["embedding"],
            dynamic_axes={"input.1": {0: "None"}, "embedding": {0: "None"}},
        )
        model = onnx.load(partial)
        if half:
            _halve(model.graph)
        onnx.checker.check_model(model)
        partial.write_bytes(model.SerializeToString(deterministic=True))


def _halve(graph: onnx.GraphProto) -> None:
    """Store the large initializers as float16, each behind a cast that bears its name."""
    casts = []
    for tensor in graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.dtype == np.float32 and weights.size >= LARGE:
            name, stored = tensor.name, f"{tensor.name}.half"
            tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float16), stored))
            casts.append(helper.make_node("Cast", [stored], [name], f"Cast_{name}", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
