"""Where and how a training runs: device, processes, kernels."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from stages.knobs import ParamsError, check, pick_device
from stages.train.knobs import Train


def prepare_device(train: Train) -> torch.device:
    """The device that `train.device` means here.

    Raises:
        ParamsError: `cuda` without a GPU, or `fp16` on a CPU.
    """
    name = pick_device(train.device, "train.device")
    if name == "cpu" and train.precision == "fp16":
        raise ParamsError("train.precision is fp16, which needs a GPU: on a CPU, bf16")
    return torch.device(name)


def processes(train: Train, device: torch.device) -> int:
    """How many train together on this machine.

    Raises:
        ParamsError: more than there are GPUs.
    """
    if device.type == "cpu":
        return train.processes or 1
    there = torch.cuda.device_count()
    check(train.processes <= there, f"train.processes is {train.processes}, but torch sees {there} GPUs")
    return train.processes or there


def mode(train: Train, device: torch.device) -> str:
    """What `train.mode` comes to on this device: deterministic or fast."""
    return train.mode if train.mode != "auto" else "deterministic" if device.type == "cpu" else "fast"


def prepare_torch(train: Train, device: torch.device) -> None:
    """Set torch up: for results that repeat, or for the fastest kernels."""
    repeats = mode(train, device) == "deterministic"
    if repeats:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
    torch.set_num_threads(train.threads)
    torch.use_deterministic_algorithms(repeats)
    torch.backends.cudnn.benchmark = not repeats


def scaled(train: Train) -> bool:
    """Whether the loss is scaled against underflow; a step whose gradient overflows is left out, and its norm is 0."""
    return train.precision == "fp16"


def provenance(train: Train, device: torch.device, count: int, seconds: float) -> dict[str, Any]:
    """Where and how a training ran: what may change from run to run, and is not compared."""
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else ""
    return {
        "mode": mode(train, device),
        "device": gpu or platform.processor() or platform.machine(),
        "processes": count,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpu else "",
        "cudnn": torch.backends.cudnn.version() if gpu else "",
        "system": platform.platform(),
        "seconds": round(seconds, 1),
    }
