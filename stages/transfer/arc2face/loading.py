"""The generator: which files it is made of, and how it is loaded."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
import transformers

from stages.knobs import pick_device
from stages.store import StoreError, fingerprint
from stages.transfer.arc2face.knobs import Knobs
from stages.transfer.arc2face.pipeline import Arc2FacePipeline

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def load_pipeline(knobs: Knobs, root: Path = Path("."), device: str | None = None) -> Arc2FacePipeline:
    """Load the generator onto its device, in its precision and with its scheduler.

    Args:
        knobs: the block of parameters.
        root: what the folders in it are relative to.
        device: of torch; default is the knob's.

    Raises:
        ParamsError: `transfer.device` is cuda, and there is no GPU.
        StoreError: a folder or file of the weights is missing, or they do not fit together.
    """
    options = {"dtype": PRECISIONS[knobs.precision], "low_cpu_mem_usage": False}
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()  # what they warn of is an error here, and said once
    weights = root / knobs.weights
    try:
        if (weights / "model_index.json").is_file():
            pipeline = Arc2FacePipeline.from_parts(weights, **options)
        else:
            pipeline = Arc2FacePipeline.from_official(weights, root / knobs.base, **options)
        if knobs.lora:
            _fuse(pipeline, root / knobs.lora)
        pipeline.use_scheduler(knobs.scheduler)
    except (OSError, ValueError) as error:
        raise StoreError(f"{weights}: no generator can be loaded ({error}); see the block transfer") from error
    device = device or pick_device(knobs.device, "transfer.device")
    if device == "cpu":
        torch.set_num_threads(knobs.threads)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    if knobs.channels_last:
        for module in (pipeline.unet, pipeline.vae):
            module.to(memory_format=torch.channels_last)
    if knobs.compile:
        pipeline.unet.compile()
        pipeline.vae.decoder.compile()
    return pipeline


def _fuse(pipeline: Arc2FacePipeline, lora: Path) -> None:
    """Add a LoRA to the weights; diffusers leaves out what finds no place."""
    state, _ = pipeline.lora_state_dict(str(lora))
    pipeline.load_lora_weights(str(lora))
    parts = (pipeline.unet, pipeline.text_encoder)
    placed = sum(".lora_" in name for part in parts for name in part.state_dict())
    if placed != len(state):
        raise StoreError(f"{lora}: {placed} of its {len(state)} tensors fit this generator: of another model")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()


def weights_digest(knobs: Knobs, root: Path = Path(".")) -> str:
    """Fingerprint of the files that the generator is loaded from.

    Raises:
        StoreError: there are none.
    """
    weights, base = root / knobs.weights, root / knobs.base
    if (weights / "model_index.json").is_file():
        folders = [weights / part for part in PARTS]
    else:
        folders = [
            weights / "arc2face",
            weights / "encoder",
            *(base / part for part in ("vae", "tokenizer", "scheduler")),
        ]
    if knobs.lora:
        folders.append(root / knobs.lora)
    files = []
    for folder in folders:
        found = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        if not found:
            raise StoreError(f"{folder}: not found; it is a part of the generator that transfer.weights names")
        files += found
    return fingerprint(*files)
