"""What a weights file is, without running anything in it: `r2r inspect FILE`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stages.embed.encoder import by_names, read_form
from stages.store import StoreError
from stages.train.backbones import create_on_meta, find_networks
from stages.training.tensors import read_tensors

# Names that only this network has among the official ones the project reads (facts of their state_dicts).
OTHERS = {
    "position_emb": "CodeFormer",
    "quantize.embedding.weight": "CodeFormer's VQGAN",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": "a Stable Diffusion 1.5 UNet",
    "encoder.down_blocks.0.resnets.0.conv1.weight": "a diffusers VAE",
    "embeddings.token_embedding.weight": "a CLIP text encoder (Arc2Face's has this form)",
    "embeddings.class_embedding": "a CLIP vision encoder",
    "encoder.styles.0.convs.0.weight": "a StyleGAN encoder (pSp or e4e)",
    "to_rgb1.conv.modulation.weight": "a StyleGAN2 generator (rosinality)",
}

COUNTED_APART = ("running_mean", "running_var", "num_batches_tracked")  # buffers, no parameters
TORCH = (b"PK", b"\x80", b"\x1f\x8b")  # how a torch checkpoint begins: a zip, or before 1.6 a pickle


def describe(path: Path) -> str:
    """Lines of `key: value`: format, network, entries, parameters, channel order, embedding, training.

    Raises:
        StoreError: no such file, or not a weights file.
    """
    if path.is_dir():
        raise StoreError(f"{path}: a folder; name a weights file in it")
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    suffix = path.suffix.lower()
    facts = _onnx(path) if suffix == ".onnx" else _safetensors(path) if suffix == ".safetensors" else _torch(path)
    facts = {"file": f"{path.name}, {path.stat().st_size / 2**20:.1f} MiB", **facts}
    return "\n".join(f"{name}: {value}" for name, value in facts.items() if value is not None)


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path}: not a readable safetensors file ({error})") from error
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if "card" not in metadata:
        return {"format": "safetensors", **_recognise(state)}
    try:
        card = json.loads(metadata["card"])
        return {"format": "safetensors", "network": card.pop("backbone"), **card, **_size(state)}
    except (ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: its model card is broken ({error})") from error


def _torch(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        if not file.read(2).startswith(TORCH):
            raise StoreError(f"{path}: no weights file, neither torch's nor .safetensors nor .onnx")
    return {"format": "torch checkpoint", **_recognise(read_tensors(path, "meta"))}


def _recognise(content: Any) -> dict[str, Any]:
    """What `load_backbone` finds in a checkpoint, or which other network it knows the names of."""
    found = find_networks(content)
    if len(found) > 1:
        return {"network": ", ".join(f"{one.backbone} ({one.where})" for one in found)}
    if found:
        (one,) = found
        shapes = {name: tensor.shape for name, tensor in create_on_meta(one.backbone).state_dict().items()}
        odd = [name for name, tensor in one.state.items() if tensor.shape != shapes[name]]
        if odd:
            return {"network": f"unknown: {one.backbone}'s names, and other sizes, first {odd[0]}", **_size(one.state)}
        official = "AdaFace" if one.backbone.startswith("ir_") else "insightface"
        return {
            "network": f"{one.backbone} ({official}'s layout)",
            "place": one.where or None,
            "channels": f"{one.card.channels} (official; the file does not say)",
            "embedding": one.card.embedding,
            **_size(one.state),
        }
    state = max(_states(content), key=len, default={})
    if not state:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        return {"network": "unknown", "keys": keys}
    known = (name for key, name in OTHERS.items() if any(f".{entry}".endswith(f".{key}") for entry in state))
    return {"network": next(known, "unknown"), **_size(state)}


def _states(content: Any) -> Iterator[dict[str, Tensor]]:
    """The mappings of tensors at any key."""
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield tensors
        for value in content.values():
            yield from _states(value)


def _size(state: Mapping[str, Tensor]) -> dict[str, Any]:
    counted = [tensor.numel() for name, tensor in state.items() if not name.endswith(COUNTED_APART)]
    return {"entries": len(state), "parameters": f"{sum(counted):,}"}


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
