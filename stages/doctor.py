"""What a run has, what it lacks and what it will take, before it starts: `r2r doctor --profile paper`.

Times are estimates: floating-point operations, counted on the networks' shapes, over the rate of this machine's matrix
product, of which a network reaches about `EFFICIENCY`. They tell minutes from days.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from stages.fetch import official
from stages.fetch.catalogue import format_size, parse_size
from stages.fetch.download import SPARE, Hashes, free_space
from stages.params import Params

if TYPE_CHECKING:
    import torch

EFFICIENCY = 0.3  # of the matrix product's rate
BANDWIDTH = 50e6  # bytes a second of a download
RENDER = 25.0  # embedded images a second and core, bench/world.py
DIGIFACE = 10_000 * 72 + 99_999 * 5  # images
SD15_UNET, SD15_DECODER = 803e9, 2515e9  # operations of a step and of a decoding at 512 px, by FlopCounterMode
TEXT_ENCODER = 13e9  # operations of CLIP ViT-L/14's text tower, 77 tokens
BYTES_PER_PIXEL = {"png": 1.6, "jpeg": 0.37, "webp": 0.25}  # of photographs, quality 95
STYLES = {"present": "green", "missing": "yellow", "wrong": "red", "licence": "red", "by hand": "red"}


@dataclass(frozen=True)
class Work:
    """A stage's work: seconds, about, and what of."""

    stage: str
    seconds: float
    what: str


def examine(params: Params, root: Path = Path("."), console: Console | None = None) -> bool:
    """Print what is there, missing, wrong or bound by a licence, what the machine has, and how long each stage takes.

    Returns:
        Whether the run can start: nothing is missing, and the disk is large enough.
    """
    console = console or Console()
    findings = examine_data(params, root)
    table = Table(title=f"profile {params.profile}", title_justify="left", box=None, pad_edge=False)
    for column in ("thing", "state", "to fetch", ""):
        table.add_column(column, justify="right" if column == "to fetch" else "left", overflow="fold")
    for name, state, todo, detail in findings:
        table.add_row(name, f"[{STYLES[state]}]{state}[/]", format_size(todo) if todo else "", detail)
    console.print(table)

    needed = sum(todo for _, _, todo, _ in findings) + derived_bytes(params)
    free = free_space(root)
    machine = Table(title="\nmachine", title_justify="left", box=None, pad_edge=False)
    for column in ("", "needs about", "has"):
        machine.add_column(column)
    enough = needed + SPARE <= free
    machine.add_row("disk", format_size(needed), f"[{'green' if enough else 'red'}]{format_size(free)} free[/]")
    for row in examine_machine(params):
        machine.add_row(*row)
    console.print(machine)

    works = Table(title="\nstages", title_justify="left", box=None, pad_edge=False)
    for column in ("stage", "about", "of"):
        works.add_column(column)
    for work in estimate(params, root, sum(todo for _, _, todo, _ in findings)):
        works.add_row(work.stage, format_time(work.seconds), work.what)
    console.print(works)
    lacking = [name for name, state, _, _ in findings if state != "present"]
    if lacking:
        console.print(f"\n[yellow]lacks {', '.join(lacking)}[/]: `r2r fetch` gets what is missing")
    return enough and not lacking


def examine_data(params: Params, root: Path) -> list[tuple[str, str, int, str]]:
    """(thing, state, bytes to fetch, detail) of all that the profile reads and does not make."""
    data = root / "data"
    knobs = params.fetch
    rows = []
    if folder := official.mirror(knobs.mirror)[0]:
        rows.append(("mirror", "present", 0, str(folder)))
    hashes = Hashes(data / "hashes.json", frozen=True)
    for finding in official.inspect(official.wanted(knobs), knobs, data, hashes):
        rows.append((finding.entry.name, finding.state, finding.todo, finding.detail))
    paths = {"embed.encoder": params.embed.encoder}
    if params.method == "arc2face":
        paths |= {"arc2face.weights": params.arc2face.weights, "arc2face.base": params.arc2face.base}
        paths |= {"synthesize.judge": params.synthesize.judge}
    for knob, path in paths.items():
        if path and not path.startswith("data/weights/"):
            there = (root / path).exists()
            rows.append((knob, "present" if there else "missing", 0, path))
    return rows


def derived_bytes(params: Params) -> int:
    """About how many bytes the stages will write."""
    images = params.n_ids * params.images_per_id
    made = images * generated_size(params) ** 2 * BYTES_PER_PIXEL[params.synthesize.codec]
    aligned = images * 112**2 * BYTES_PER_PIXEL[params.align.codec]
    return int((made if params.method != "none" else 0) + aligned + source_images(params) * 512 * 4)


def generated_size(params: Params) -> int:
    """Side of a generated image, px."""
    return params.arc2face.size or (512 if params.arc2face.base else 96)


def source_images(params: Params) -> int:
    """Images of the source."""
    if params.fetch.source != official.EMBEDDED:
        return DIGIFACE
    per_zip = params.fetch.source_ids_per_zip
    return -(-params.n_ids * 5 // 4 // per_zip) * per_zip * params.fetch.source_images_per_id


def target_images(params: Params) -> int:
    """Images of the target."""
    knobs = params.fetch
    return knobs.target_images if knobs.target != official.EMBEDDED else knobs.target_ids * knobs.target_images_per_id


def examine_machine(params: Params) -> Iterator[tuple[str, str, str]]:
    """(part, what is needed, what there is)."""
    import onnxruntime
    import torch

    memory = parse_size("6 GB") + params.train.workers * parse_size("0.5 GB")
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield "memory", format_size(memory), f"[{'green' if has >= memory else 'red'}]{format_size(has)}[/]"
    yield "cores", "", str(_cores())
    if torch.cuda.is_available():
        name, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        needs = gpu_bytes(params)
        yield "GPU", format_size(needs), f"[{'green' if size >= needs else 'red'}]{name}, {format_size(size)}[/]"
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            yield "GPU of embed", "onnxruntime-gpu", "[yellow]onnxruntime without GPU: embed runs on the CPU[/]"
    else:
        yield "GPU", format_size(gpu_bytes(params)) if params.arc2face.base else "", "none: all runs on the CPU"


def gpu_bytes(params: Params) -> int:
    """What training, or the generator where it is larger, takes of a GPU's memory."""
    import torch

    from stages.train.backbones import create_backbone

    with torch.device("meta"):
        network = create_backbone(params.train.backbone).train()
        weights = sum(weight.numel() for weight in network.parameters())
        saved = [_saved_bytes(network, batch) for batch in (2, 3)]
    share = 1.0 if params.train.precision == "fp32" else 0.5
    training = 16 * weights + share * params.train.batch_size * (saved[1] - saved[0])
    generator = 2.2e9 + 0.25e9 * params.arc2face.batch_size if params.arc2face.base else 0.0
    return int(max(training, generator))


def _saved_bytes(network: torch.nn.Module, batch: int) -> int:
    """What a forward pass keeps for the backward one."""
    import torch

    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.empty(batch, 3, 112, 112))
    return sum(sizes)


def estimate(params: Params, root: Path, todo: int) -> list[Work]:
    """How long each stage takes, about, from nothing."""
    import onnxruntime

    cuda = {name: _on_gpu(getattr(params, name).device) for name in ("arc2face", "align", "train", "evaluate")}
    cuda["embed"] = _on_gpu("auto") and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    precision = {"arc2face": params.arc2face.precision, "train": params.train.precision}
    on = {stage: (gpu, "fp32" if precision.get(stage, "fp32") == "fp32" else "bf16") for stage, gpu in cuda.items()}
    rates = {
        place: EFFICIENCY * matmul_rate("cuda" if place[0] else "cpu", place[1]) for place in sorted(set(on.values()))
    }
    rate = {stage: rates[place] for stage, place in on.items()}
    official_encoder = params.fetch.source != official.EMBEDDED
    embedding = flops("iresnet100" if official_encoder else "iresnet_tiny")
    backbone = flops(params.train.backbone)
    source, target = source_images(params), target_images(params)
    images = params.n_ids * params.images_per_id
    detect = detection_seconds(params) / _cores()
    detect_small = detect * min(1.0, (112 / generated_size(params)) ** 2) if params.method != "none" else detect

    rendered = 0 if params.fetch.source != official.EMBEDDED else source
    rendered += 0 if params.fetch.target != official.EMBEDDED else target
    tests = 12_000 * len(params.fetch.benchmarks)
    if official.EMBEDDED in params.fetch.benchmarks:
        tests = 5 * params.fetch.pairs + 14 * params.fetch.templates + 4 * params.fetch.group_pairs
        rendered += tests
    works = [
        Work(
            "fetch",
            todo / BANDWIDTH + rendered / RENDER / _cores(),
            " and ".join(
                part
                for part in (
                    f"{format_size(todo)} at {format_size(BANDWIDTH)}/s" if todo else "",
                    f"{rendered:,} rendered images" if rendered else "",
                )
                if part
            ),
        ),
        Work(
            "embed",
            (source + target) * (embedding / rate["embed"] + (detect_small if params.embed.align else 0)),
            f"{source + target:,} images",
        ),
    ]
    if params.method == "arc2face":
        knobs = params.arc2face
        step, decoding = generator_flops(root / knobs.weights)
        cost = step * knobs.steps * (2 if knobs.guidance != 1 else 1) + decoding
        count = 2 * params.gap.n_images
        works.append(Work("gap", count * TEXT_ENCODER / rate["arc2face"] + 30, f"{count:,} images and a t-SNE"))
        works.append(Work("synthesize", images * cost / rate["arc2face"], f"{images:,} images"))
    works += [
        Work("align", images * detect, f"{images:,} images"),
        Work("train", 3 * images * params.train.epochs * backbone / rate["train"], f"{params.train.epochs} epochs"),
        Work("evaluate", 2 * tests * backbone / rate["evaluate"], f"{tests:,} images"),
    ]
    return works


def flops(backbone: str) -> float:
    """Operations of an image's embedding."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from stages.train.backbones import create_backbone

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        create_backbone(backbone).eval()(torch.empty(1, 3, 112, 112))
    return counter.get_total_flops()


def generator_flops(weights: Path) -> tuple[float, float]:
    """Operations of a step and of a decoding; of Stable Diffusion 1.5 unless another generator stands there."""
    unet, vae = weights / "unet/config.json", weights / "vae/config.json"
    if not (unet.is_file() and vae.is_file()):
        return SD15_UNET, SD15_DECODER
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    with torch.device("meta"), torch.no_grad():
        model = UNet2DConditionModel.from_config(json.loads(unet.read_text()))
        latents = torch.empty(1, model.config["in_channels"], *[model.config["sample_size"]] * 2)
        context = torch.empty(1, 77, model.config["cross_attention_dim"])
        decoder = AutoencoderKL.from_config(json.loads(vae.read_text()))
        for call in (lambda: model(latents, torch.tensor(1), context), lambda: decoder.decode(latents)):
            with FlopCounterMode(display=False) as counter:
                call()
            counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def matmul_rate(device: str, precision: str, side: int = 1024) -> float:
    """Operations a second of a matrix product on this machine, measured in about a tenth of a second."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    side *= 4 if device == "cuda" else 1
    a = torch.rand(side, side, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the GPU
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def detection_seconds(params: Params) -> float:
    """Seconds of a core to find the faces of an image that `align` is given, measured on an image without one."""
    import numpy as np

    from stages.align import detector

    side = generated_size(params) if params.method != "none" else params.fetch.source_size
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    mtcnn = detector(replace(params.align, device="cpu"))
    mtcnn.detect([image])  # compiles
    begin = time.process_time()
    mtcnn.detect([image] * 4)
    return (time.process_time() - begin) / 4


def _on_gpu(device: str) -> bool:
    import torch

    return device != "cpu" and torch.cuda.is_available()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def format_time(seconds: float) -> str:
    """Seconds as `4 min`."""
    for unit, length in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
