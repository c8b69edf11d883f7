"""Digi2Real's realism transfer: identity embeddings to photographs by Arc2Face.

`sampling` says which embeddings an identity's images are asked for, `pipeline` is the generator, `method` makes the
images of an identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers

from stages.params import check
from stages.store import StoreError, fingerprint
from stages.transfer.arc2face.pipeline import Arc2FacePipeline, text_states

__all__ = ["Arc2Face", "Arc2FacePipeline", "load_pipeline", "text_states", "weights_digest"]

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Arc2Face:
    """The generator and where its identity vectors come from."""

    weights: str = "stages/transfer/arc2face/generator"  # a diffusers folder, or the official `arc2face/` + `encoder/`
    base: str = ""  # Stable Diffusion 1.5's folder, which the official weights need for VAE, tokenizer and scheduler
    lora: str = ""  # LCM-LoRA's folder or file, fused into the UNet (needs peft); with it LCMScheduler, guidance 1
    scheduler: str = "DPMSolverMultistepScheduler"  # of diffusers; its default is DPM-Solver++ 2M, as the official demo
    steps: int = 25
    guidance: float = 3.0  # classifier-free guidance scale; 1 is none
    size: int = 0  # px; 0 is what the UNet was trained at
    latents_per_id: int = 5  # identity vectors; Digi2Real, "Dataset Generation"
    images_per_latent: int = 5  # of which `images_per_id` in all are used (the paper: 20 of 25)
    order: str = "interleaved"  # interleaved | grouped: which 20 of the 25; interleaved uses all vectors alike
    sources: str = "random"  # random | first: which source images a vector walks to (see sampling.py)
    prototype: str = "all"  # all | selected: whose mean the prototype is (see sampling.py)
    batch_size: int = 32  # images; a batch never spans two identities, so that its make-up is fixed
    decode_slice: int = 8  # images that the VAE decodes at a time
    precision: str = "fp32"  # fp32 | fp16 | bf16
    channels_last: bool = False  # memory layout of the convolutions; helps tensor cores
    compile: bool = False  # torch.compile the UNet and the VAE's decoder: minutes once, worth it for many images
    device: str = "auto"
    threads: int = 1  # of torch on a CPU, per process; results are equal for equal thread counts

    def __post_init__(self) -> None:
        check(self.steps >= 1, f"arc2face.steps is {self.steps}: at least 1")
        check(self.guidance >= 1, f"arc2face.guidance is {self.guidance}: at least 1")
        check(self.latents_per_id >= 1, f"arc2face.latents_per_id is {self.latents_per_id}: at least 1")
        check(self.images_per_latent >= 1, f"arc2face.images_per_latent is {self.images_per_latent}: at least 1")
        check(self.batch_size >= 1, f"arc2face.batch_size is {self.batch_size}: at least 1")
        check(self.decode_slice >= 1, f"arc2face.decode_slice is {self.decode_slice}: at least 1")
        check(self.threads >= 1, f"arc2face.threads is {self.threads}: at least 1")
        for name, values in {
            "order": ("interleaved", "grouped"),
            "sources": ("random", "first"),
            "prototype": ("all", "selected"),
            "precision": tuple(PRECISIONS),
        }.items():
            value = getattr(self, name)
            check(value in values, f"arc2face.{name} is {value!r}: one of {', '.join(values)}")


def load_pipeline(knobs: Arc2Face, root: Path = Path("."), device: str | None = None) -> Arc2FacePipeline:
    """Load the generator onto its device, in its precision and with its scheduler.

    Args:
        knobs: the block of parameters.
        root: what the folders in it are relative to.
        device: of torch; default is the knob's.

    Raises:
        StoreError: a folder or file of the weights is missing, or they do not fit together.
    """
    options = {"dtype": PRECISIONS[knobs.precision], "low_cpu_mem_usage": False}
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    weights = root / knobs.weights
    try:
        if (weights / "model_index.json").is_file():
            pipeline = Arc2FacePipeline.from_pretrained(weights, **options)
        else:
            pipeline = Arc2FacePipeline.from_official(weights, root / knobs.base, **options)
        if knobs.lora:
            pipeline.load_lora_weights(str(root / knobs.lora))
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()
        pipeline.use_scheduler(knobs.scheduler)
    except (OSError, ValueError) as error:
        raise StoreError(f"{weights}: no generator can be loaded ({error}); see the block arc2face") from error
    if device is None:
        device = ("cuda" if torch.cuda.is_available() else "cpu") if knobs.device == "auto" else knobs.device
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


def weights_digest(knobs: Arc2Face, root: Path = Path(".")) -> str:
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
            raise StoreError(f"{folder}: not found; it is a part of the generator that arc2face.weights names")
        files += found
    return fingerprint(*files)
