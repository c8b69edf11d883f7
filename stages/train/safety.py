"""What stops a training, and what it leaves to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from stages.knobs import check
from stages.pictures import save_png, sheet
from stages.train.data import FaceDataset
from stages.train.knobs import Train
from stages.train.order import Key, epoch_steps

RECENT, EXPLODED = 100, 1e3  # steps; a gradient this many times as long as their median has exploded
SHOWN = 64  # images of a batch


def check_batches(train: Train, images: int, identities: int, count: int) -> None:
    """Refuse an epoch without a batch, or with one of a single image, or a part of one without any.

    Raises:
        ParamsError: with the numbers, and what to do.
    """
    keep = train.last_batch == "keep"
    check(
        epoch_steps(images, train.batch_size, keep) > 0,
        f"train.batch_size is {train.batch_size}, but there are only {images} images",
    )
    check(
        not keep or images % train.batch_size != 1,
        f"train.last_batch is keep, but of {images} images in batches of {train.batch_size} the last one has a single "
        "image, which no batch norm can learn from: set train.last_batch to drop, or another train.batch_size",
    )
    smallest = (images % train.batch_size if keep else 0) or train.batch_size
    seen = smallest // train.accumulate // (1 if train.sync_batch_norm else count)  # by a batch norm
    check(
        seen >= 2 and smallest // train.accumulate >= count,
        f"train.accumulate is {train.accumulate} on {count} processes, too many for a batch of {smallest} images: each "
        "needs an image, and a batch norm two",
    )
    check(identities >= count, f"train.processes is {count}, but there are only {identities} identities to share out")


def fault(train: Train, curve: Mapping[str, np.ndarray], step: int) -> str | None:
    """What is wrong with a step's gradient: it exploded, unclipped, or is none where there is much to learn."""
    norm, before = curve["norm"][step], curve["norm"][max(0, step - RECENT) : step]
    if not train.clip and len(before) == RECENT and norm > EXPLODED * np.median(before) > 0:
        return f"the gradient's norm is {norm:.3g}, {EXPLODED:.0f} times that of the steps before,"
    if norm == 0 and curve["loss"][step] > 1 and train.precision != "fp16":
        return f"the head is dead: the loss is {curve['loss'][step]:.3g} and its gradient 0"
    return None


def remedy(train: Train) -> str:
    """What to do when a training diverges."""
    return (
        f"Lower train.lr ({train.lr}), or add train.warmup_epochs ({train.warmup_epochs}) or train.clip ({train.clip})"
        "; plots/diverged.png shows the batch"
    )


def gradient_norm(backbone: nn.Module, clip: float) -> Tensor:
    """Of the backbone's gradient, which is clipped to `clip` if that is not 0."""
    if clip:
        return nn.utils.clip_grad_norm_(backbone.parameters(), clip)
    return nn.utils.get_total_norm([p.grad for p in backbone.parameters() if p.grad is not None])


def show_batch(path: Path, data: FaceDataset, keys: Sequence[Key]) -> None:
    """Draw the first images of a batch as the network sees them, eight in a row, each with its identity."""
    shown = [data[key][0] for key in keys[:SHOWN]]
    images = [image[..., ::-1].copy() if data.channels == "bgr" else image for image in shown]
    names = [str(data.identity[index]) for _, index, _ in keys[:SHOWN]]
    rows = {f"images {k + 1} and after, of {len(keys)}": slice(k, k + 8) for k in range(0, len(shown), 8)}
    captions = {row: names[part] for row, part in rows.items()}
    save_png(path, sheet({row: images[part] for row, part in rows.items()}, captions=captions))
