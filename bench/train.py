"""What a training step costs: CPU milliseconds an image, against the bare network and the processor's matmul rate.

    python -m bench.train [network ...]

CPU time of all threads together, which a busy machine disturbs least; on n idle cores a step takes 1 / n of it.
`overhead` is the whole step (reading, augmenting, head, optimiser) over forward and backward of the same network on a
ready batch; `of_matmul` is the step's floating-point rate over that of a large matrix product in the same precision.
One JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.params import Params
from stages.store import encode, write_shard
from stages.train.knobs import Train
from stages.train.networks import create_backbone
from stages.train.stage import run

BATCH = {"iresnet_tiny": 64, "ir_18": 16, "ir_50": 8}  # of few images where a step takes long
SIDE = 2048  # of the matrix product
STEPS = 6


def step_ms(root: Path, name: str, precision: str, batch: int, steps: int) -> float:
    """CPU milliseconds an image of the training loop: a long run less a short one, without starting up."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 112, 112, 3), np.uint8)
    columns = {"identity": np.arange(batch) // 2, "sample": np.arange(batch) % 2}
    write_shard(root / "data/align/0.h5", columns, [encode(image) for image in images])
    seconds = []
    for epochs in (1, 1 + steps):  # of one step each
        train = Train(
            backbone=name,
            epochs=epochs,
            batch_size=batch,
            lr=1e-3,
            precision=precision,
            threads=torch.get_num_threads(),
            device="cpu",
        )
        seconds.append(timed(lambda train=train: run(Params(train=train), root)))
    return (seconds[1] - seconds[0]) / steps / batch * 1e3


def bare_ms(name: str, precision: str, batch: int, steps: int) -> tuple[float, float]:
    """CPU milliseconds an image of forward and backward alone, and their floating-point operations an image."""
    network = create_backbone(name).to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, 112, 112).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(images).float().square().mean()
        loss.backward()

    with FlopCounterMode(display=False) as counter:
        step()
    seconds = min(timed(step) for _ in range(steps))
    return seconds / batch * 1e3, counter.get_total_flops() / batch


def matmul_rate(precision: str, side: int) -> float:
    """Floating-point operations a CPU second of a large matrix product."""
    a = torch.rand(side, side, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    return 2 * side**3 / min(timed(lambda: a @ a) for _ in range(5))


def timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main(names: list[str], precision: str = "bf16", steps: int = STEPS, side: int = SIDE) -> dict[str, float]:
    numbers: dict[str, float] = {"threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["R2R_CACHE"] = folder
        for name in names:
            bare, flops = bare_ms(name, precision, BATCH[name], steps)
            whole = step_ms(Path(folder), name, precision, BATCH[name], steps)
            numbers[f"{name}_cpu_ms"] = round(whole, 2)
            numbers[f"{name}_overhead"] = round(whole / bare, 2)
            numbers[f"{name}_of_matmul"] = round(flops / (whole / 1e3) / matmul_rate(precision, side), 3)
    return numbers


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:] or list(BATCH)[:2])))
