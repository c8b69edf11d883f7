"""The training loop (`r2r train`), read from top to bottom.

A killed run goes on from its last checkpoint, which lies outside the workspace (`$R2R_CACHE/train/<fingerprint>/`,
by default under `~/.cache/render2real`), since DVC deletes outputs and throws whole checkouts away. A step depends on
the weights before it and on (seed, step) only, so that the run ends with the same bytes as one that was never killed.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from stages.params import Params, ParamsError, Train, pick_device
from stages.store import StoreError, cache_folder, fingerprint, replacing
from stages.train.backbones import Card, create_backbone, normalise, save_backbone
from stages.train.data import FaceDataset, batches
from stages.train.heads import create_head
from stages.train.schedule import learning_rate, parameter_groups

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CURVE_ROWS = 200  # of plots/train.csv, at most


def run(params: Params, root: Path = Path(".")) -> None:
    """Train on `train.data`; write `data/train/backbone.safetensors`, `metrics/train.json` and `plots/train.csv`.

    Raises:
        StoreError: no aligned images, or broken ones.
        ParamsError: fewer images than a batch, a device that is not there, or a loss that is no longer finite.
    """
    train, device = params.train, prepare_device(params.train)
    torch.set_num_threads(train.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(params.seed)

    data = FaceDataset(root / train.data, params.seed, train.augment, train.flip)
    epoch_steps = len(data) // train.batch_size
    if epoch_steps == 0:
        raise ParamsError(f"train.batch_size is {train.batch_size}, but there are only {len(data)} images")
    steps = train.epochs * epoch_steps

    backbone = create_backbone(train.backbone)
    head = create_head(train, backbone.embedding, len(data.identities))
    model = nn.ModuleDict({"backbone": backbone, "head": head}).to(device)
    model.to(memory_format=torch.channels_last)  # as the images arrive
    optimizer = torch.optim.SGD(parameter_groups(model, train.weight_decay), lr=train.lr, momentum=train.momentum)
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
    curve = torch.zeros(steps, 2)  # loss and accuracy of every step

    key = run_fingerprint(params, data, device)
    checkpoint = cache_folder() / "train" / key / "checkpoint.pt"
    parts = {"model": model, "optimizer": optimizer, "scaler": scaler}
    start = load_checkpoint(checkpoint, parts, curve) if checkpoint.is_file() else 0
    saved = time.monotonic()

    keys = batches(len(data), train.batch_size, start, steps, params.seed)
    loader = DataLoader(data, batch_sampler=keys, num_workers=train.workers)
    bar = tqdm(
        desc="train", initial=start * train.batch_size, total=steps * train.batch_size, unit="img", smoothing=0.1
    )
    for step, (images, labels) in enumerate(loader, start):
        torch.manual_seed(params.seed * 2**32 + step)  # of the dropout in AdaFace's networks
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train, step / epoch_steps)
        labels = labels.to(device)
        with torch.autocast(device.type, PRECISIONS[train.precision], enabled=train.precision != "fp32"):
            embeddings = backbone(normalise(images.to(device)))
        logits, cosines = head(embeddings.float(), labels)
        loss = F.cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise ParamsError(
                f"the loss is {loss.item()} in step {step} of {steps}: training diverged. Lower train.lr "
                f"({train.lr}), or add train.warmup_epochs ({train.warmup_epochs}) or train.clip ({train.clip})"
            )
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if train.clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), train.clip)
        scaler.step(optimizer)
        scaler.update()

        accuracy = (cosines.argmax(1) == labels).float().mean()
        curve[step] = torch.stack([loss.detach(), accuracy]).cpu()
        bar.update(train.batch_size)
        bar.set_postfix(epoch=step // epoch_steps, loss=f"{curve[step, 0]:.2f}", refresh=False)
        if time.monotonic() - saved >= 60 * train.checkpoint_minutes:
            save_checkpoint(checkpoint, parts, curve, step + 1)
            saved = time.monotonic()
    bar.close()

    card = Card(
        train.backbone,
        backbone.embedding,
        identities=len(data.identities),
        images=len(data),
        head=train.head,
        fingerprint=key,
    )
    save_backbone(root / "data/train/backbone.safetensors", backbone, card)
    write_curve(root / "plots/train.csv", curve.numpy(), train, epoch_steps)
    loss, accuracy = curve[-epoch_steps:].double().mean(0).tolist()
    metrics = {
        "identities": len(data.identities),
        "images": len(data),
        "steps": steps,
        "loss": round(loss, 4),  # of the last epoch, as is the accuracy
        "accuracy": round(100 * accuracy, 2),
    }
    with replacing(root / "metrics/train.json") as partial:
        partial.write_text(json.dumps(metrics, indent=2) + "\n")
    shutil.rmtree(checkpoint.parent, ignore_errors=True)


def prepare_device(train: Train) -> torch.device:
    """The device that `train.device` means here, set up for results that repeat.

    Raises:
        ParamsError: `cuda` without a GPU, or `fp16` on a CPU.
    """
    name = pick_device(train.device, "train.device")
    if name == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
    elif train.precision == "fp16":
        raise ParamsError("train.precision is fp16, which needs a GPU: on a CPU, bf16")
    return torch.device(name)


def run_fingerprint(params: Params, data: FaceDataset, device: torch.device) -> str:
    """What a run's steps depend on; the data, the knobs but those that cannot matter, the code and torch."""
    knobs = replace(params.train, data="", workers=0, checkpoint_minutes=0.0, device=device.type)
    return fingerprint(params.seed, knobs, data.fingerprints, torch.__version__, code=["train"])


def save_checkpoint(path: Path, parts: dict[str, Any], curve: torch.Tensor, step: int) -> None:
    """Write the state after `step` steps, whole or not at all."""
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as partial:
        torch.save({"step": step, "curve": curve, **state}, partial)


def load_checkpoint(path: Path, parts: dict[str, Any], curve: torch.Tensor) -> int:
    """Restore the parts and the curve in place; returns the number of steps done.

    Raises:
        StoreError: the file is broken.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load promises no type
        raise StoreError(f"{path}: not a readable checkpoint ({error}); delete it to train from the start") from error
    for name, part in parts.items():
        part.load_state_dict(state[name])
    curve.copy_(state["curve"])
    return state["step"]


def write_curve(path: Path, curve: np.ndarray, train: Train, epoch_steps: int) -> None:
    """Write loss, accuracy (%) and learning rate over the steps, averaged down to at most `CURVE_ROWS` rows."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "epoch", "loss", "accuracy", "lr"])
        for window in np.array_split(np.arange(len(curve)), min(CURVE_ROWS, len(curve))):
            loss, accuracy = curve[window].mean(0, dtype=np.float64)
            step = int(window[-1]) + 1
            epoch, lr = step / epoch_steps, learning_rate(train, window[-1] / epoch_steps)
            writer.writerow([step, f"{epoch:.3f}", f"{loss:.4f}", f"{100 * accuracy:.2f}", f"{lr:.6f}"])
