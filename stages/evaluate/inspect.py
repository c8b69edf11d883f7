"""What a weights file is, without running anything in it: `r2r inspect FILE`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stages.embed.encoder import by_names, read_form
from stages.store import StoreError
from stages.train.backbones import BACKBONES, create_on_meta, read_tensors

# Names that only this network has among the official ones the project reads (facts of their state_dicts).
OTHERS = {
    "position_emb": "CodeFormer",
    "quantize.embedding.weight": "CodeFormer's VQGAN",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": "a Stable Diffusion 1.5 UNet",
    "encoder.down_blocks.0.resnets.0.conv1.weight": "a diffusers VAE",
    "text_model.embeddings.token_embedding.weight": "a CLIP text encoder (Arc2Face's has this form)",
    "vision_model.embeddings.class_embedding": "a CLIP vision encoder",
    "encoder.styles.0.convs.0.weight": "a StyleGAN encoder (pSp or e4e)",
    "to_rgb1.conv.modulation.weight": "a StyleGAN2 generator (rosinality)",
}

COUNTED_APART = ("running_mean", "running_var", "num_batches_tracked")  # buffers, no parameters


def describe(path: Path) -> str:
    """Lines of `key: value`: format, network, entries, parameters, channel order, embedding, training.

    Raises:
        StoreError: no such file, or not a weights file.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    if path.suffix == ".onnx":
        facts = _onnx(path)
    elif path.suffix == ".safetensors":
        facts = _safetensors(path)
    else:
        facts = _torch(path)
    facts = {"file": f"{path.name}, {path.stat().st_size / 2**20:.1f} MiB", **facts}
    return "\n".join(f"{name}: {value}" for name, value in facts.items() if value is not None)


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path}: not a readable safetensors file ({error})") from error
    if "card" not in metadata:
        return {"format": "safetensors", **_recognise(shapes), **_size(shapes)}
    try:
        card = json.loads(metadata["card"])
        return {"format": "safetensors", "network": card.pop("backbone"), **card, **_size(shapes)}
    except (ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: its model card is broken ({error})") from error


def _torch(path: Path) -> dict[str, Any]:
    content = read_tensors(path, "meta")
    state: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    for wrapper in ("state_dict", "params_ema", "g_ema"):  # Lightning's, BasicSR's, StyleGAN2's
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    shapes = {name: tuple(value.shape) for name, value in state.items() if hasattr(value, "shape")}
    if not shapes:
        keys = ", ".join(map(str, list(state)[:5])) or type(content).__name__
        return {"format": "torch checkpoint", "network": "unknown", "keys": keys}
    network = {name.removeprefix("model."): shape for name, shape in shapes.items() if name.startswith("model.")}
    shapes = network or shapes  # Lightning's checkpoints hold the network beside its head
    return {"format": "torch checkpoint", **_recognise(shapes), **_size(shapes)}


def _onnx(path: Path) -> dict[str, Any]:
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's exceptions share no base class but this
        raise StoreError(f"{path}: not an ONNX file ({error})") from error
    constants = {tensor.name for tensor in graph.initializer}
    return {
        "format": "ONNX",
        "inputs": ", ".join(_onnx_shape(value) for value in graph.input if value.name not in constants),
        "outputs": ", ".join(_onnx_shape(value) for value in graph.output),
        **_encoder(path),
        "nodes": len(graph.node),
        "parameters": f"{sum(math.prod(tensor.dims) for tensor in graph.initializer):,}",
    }


def _encoder(path: Path) -> dict[str, Any]:
    """How `evaluate` and `embed` feed it."""
    try:
        form = read_form(path)
    except StoreError as error:
        return {"encoder": f"no, {str(error).removeprefix(f'{path}: ')}"}
    feeds = {True: "rgb, 0 to 255: it normalises itself", False: "rgb, (x - 127.5) / 127.5"}
    return {
        "channels": feeds[form.normalises],
        "insightface": None
        if by_names(path) == form.normalises
        else f"by its nodes' names {feeds[not form.normalises]}",
        "embedding": form.output,
        "batch": form.batch or "any",
        "order": "height, width, channels" if form.channels_last else None,
    }


def _onnx_shape(value: Any) -> str:
    sizes = [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    return f"{value.name} {sizes}"


def _size(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    sizes = [math.prod(shape) for name, shape in shapes.items() if not name.endswith(COUNTED_APART)]
    return {"entries": len(shapes), "parameters": f"{sum(sizes):,}"}


def _recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    for name in BACKBONES:
        network = create_on_meta(name)
        if {key: tuple(value.shape) for key, value in network.state_dict().items()} == shapes:
            official, channels = ("AdaFace", "bgr") if name.startswith("ir_") else ("insightface", "rgb")
            return {
                "network": f"{name} ({official}'s layout)",
                "channels": f"{channels} (official; the file does not say)",
                "embedding": network.embedding,
            }
    return {"network": next((network for key, network in OTHERS.items() if key in shapes), "unknown")}
