"""How fast images are generated, and what share of the machine's matrix products that is.

    python -m bench.arc2face                                     the embedded size, on this CPU
    python -m bench.arc2face --sd15 --size 64 --steps 2          Stable Diffusion 1.5's size with random weights
    python -m bench.arc2face --sd15 --size 512 --batch 32 --precision bf16 --compile --channels-last --device cuda

Prints one JSON line. The operations are counted by torch on one image's denoising and decoding; the peak is the best
of a few square matrix products of the same precision, measured in the same run.
"""

from __future__ import annotations

import json
import time
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from stages.transfer.arc2face.knobs import Knobs
from stages.transfer.arc2face.loading import PRECISIONS, load_pipeline
from stages.transfer.arc2face.pipeline import Arc2FacePipeline
from tests.transfer.arc2face.tiny import SD15_TEXT, SD15_UNET, SD15_VAE

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of the matrices


def create(knobs: Knobs) -> Arc2FacePipeline:
    """Stable Diffusion 1.5's size with random weights, and the embedded generator's tokens and scheduler."""
    small = load_pipeline(Knobs(device="cpu"))
    with torch.device(knobs.device):
        vae, unet = AutoencoderKL(**SD15_VAE), UNet2DConditionModel(**SD15_UNET)
        text_encoder = CLIPTextModel(CLIPTextConfig(**SD15_TEXT))
    for part in (vae, unet, text_encoder):
        part.eval().to(PRECISIONS[knobs.precision])
    pipeline = Arc2FacePipeline(vae, text_encoder, small.tokenizer, unet, small.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def peak(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of the best square matrix product."""
    best = 0.0
    for size in SIDES[device]:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        a @ b
        for _ in range(5):
            best = max(best, 2 * size**3 / timed(lambda a=a, b=b: a @ b, device))
    return best


def timed(function, device: str) -> float:
    """Seconds of a call."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main(
    sd15: Annotated[bool, typer.Option("--sd15", help="Stable Diffusion 1.5's configuration.")] = False,
    size: Annotated[int, typer.Option(help="px; 0 is the configuration's.")] = 0,
    steps: int = 10,
    batch: int = 8,
    guidance: float = 3.0,
    precision: str = "fp32",
    compile: Annotated[bool, typer.Option("--compile")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last")] = False,
    device: str = "cpu",
    repeats: int = 2,
    threads: int = 1,
) -> None:
    torch.set_num_threads(threads)
    knobs = Knobs(device=device, precision=precision, threads=threads)
    pipeline = create(knobs) if sd15 else load_pipeline(knobs)
    if channels_last:
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    vectors = torch.nn.functional.normalize(torch.randn(batch, 512 if sd15 else 256), dim=1)

    def generate(count: int = batch) -> None:
        generators = [torch.Generator().manual_seed(number) for number in range(count)]
        options = {"height": size or None, "width": size or None, "steps": steps, "guidance": guidance}
        pipeline(vectors[:count], generators, **options)

    with FlopCounterMode(display=False) as counter:
        generate(1)
    operations = counter.get_total_flops()
    if compile:
        pipeline.unet.compile()
        pipeline.vae.decoder.compile()
    generate()
    seconds = min(timed(generate, device) for _ in range(repeats)) / batch
    limit = peak(device, PRECISIONS[precision])
    result = {
        "configuration": "sd15" if sd15 else "embedded",
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {threads} threads",
        "precision": precision,
        "size": size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor,
        "steps": steps,
        "batch": batch,
        "images_per_second": round(1 / seconds, 4),
        "gflop_per_image": round(operations / 1e9, 2),
        "peak_tflops": round(limit / 1e12, 3),
        "share_of_peak": round(operations / seconds / limit, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
