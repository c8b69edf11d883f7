"""The training loop (`r2r train`), read from top to bottom.

A killed run goes on from its last checkpoint, and a setting that was trained before is taken from the cache
(`$R2R_CACHE/train/<fingerprint>`): DVC deletes outputs and throws whole checkouts away. A step depends on the weights
before it and on (seed, step) only, so that a resumed run ends with the bytes of one that was never killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from stages.images import read_faces
from stages.knobs import ParamsError, check, pick_device
from stages.store import fingerprint, link, write_json
from stages.train.backbones import Card, save_backbone
from stages.train.data import Channels, FaceDataset, Source, load
from stages.train.heads import create_head
from stages.train.knobs import Real, Train
from stages.train.mixup import domain_ratio, margin_loss, mix_halves
from stages.train.networks import create_backbone, create_on_meta, normalise
from stages.train.order import Order, batches, epoch_steps
from stages.train.recipes import create_recipe
from stages.train.schedule import learning_rate, parameter_groups
from stages.training import Loop, Part, made_once, write_curve

if TYPE_CHECKING:
    from stages.params import Params

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CODE = (
    *(f"train/{name}" for name in ("stage", "data", "order", "networks", "heads", "mixup", "schedule")),
    *(f"train/{name}" for name in ("recipes", "augment", "randaugment", "digiface")),
    "training/schedules",
    "store/codec",
)


def run(params: Params, root: Path = Path(".")) -> None:
    """Train on the sets of faces; write `data/train/backbone.safetensors`, `metrics/train.json`, `plots/train.csv`.

    Raises:
        StoreError: no images, or broken ones.
        ParamsError: one identity, fewer images than a batch, a device that is not there, or a training that diverged.
    """
    train, device = params.train, prepare_device(params.train)
    network = create_on_meta(train.backbone)
    channels: Channels = network.channels
    sees = channels if train.recipe == "adaface" else "rgb"  # official AdaFace augments what its network sees
    recipe = create_recipe(train, params.digiface)
    data = FaceDataset(sources(train, params.real, root), params.seed, recipe, sees, channels, network.columns)
    check_batches(train, len(orders_of(train, data)[0]))
    key = run_fingerprint(params, data, device)
    entry = made_once("train", key, "trained", lambda folder: learn(params, data, device, key, folder))
    link(entry.path / "backbone.safetensors", root / "data/train/backbone.safetensors")
    link(entry.path / "train.csv", root / "plots/train.csv")
    write_json(root / "metrics/train.json", entry.numbers)


def learn(params: Params, data: FaceDataset, device: torch.device, key: str, folder: Path) -> Mapping[str, float]:
    """Train, and write backbone and curve to `folder`; returns the metrics."""
    train = params.train
    torch.set_num_threads(train.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(params.seed)
    data.hint()
    data.hold()
    keep = train.last_batch == "keep"
    orders = orders_of(train, data)
    per_epoch = epoch_steps(len(orders[0]), train.batch_size, keep)
    steps = train.epochs * per_epoch

    backbone = create_backbone(train.backbone)
    head = create_head(train, backbone.embedding, data.identities)
    model = nn.ModuleDict({"backbone": backbone, "head": head}).to(device)
    model.to(memory_format=torch.channels_last)  # as the images arrive
    optimizer = torch.optim.SGD(
        parameter_groups(model, train.weight_decay, train.decay_norms), lr=train.lr, momentum=train.momentum
    )
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")

    parts: dict[str, Part] = {"model": model, "optimizer": optimizer, "scaler": scaler}
    names, minutes, hint = ("loss", "accuracy"), train.checkpoint_minutes, remedy(train)
    loop = Loop("train", key, parts, steps, names, minutes, train.batch_size, hint)
    domains = [batches(order, train.batch_size, loop.start, steps, keep) for order in orders]
    keys = ([key for keys in step for key in keys] for step in zip(*domains, strict=True))
    loader = load(data, keys, train.workers, pinned=device.type == "cuda")
    for step, (images, *labels) in zip(loop, loader, strict=True):
        torch.manual_seed(params.seed * 2**32 + step)  # of the dropout in AdaFace's networks
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train, step / per_epoch)
        images = normalise(images.to(device, non_blocking=True))
        labels = [some.to(device, non_blocking=True) for some in labels]
        if train.domain_mixup:
            images, *labels = mix_halves(domain_ratio(params.seed, step), images, *labels)
        with torch.autocast(device.type, PRECISIONS[train.precision], enabled=train.precision != "fp32"):
            embeddings = backbone(images)
        loss, accuracy = margin_loss(head, embeddings.float(), *labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if train.clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(backbone.parameters(), train.clip)
        scaler.step(optimizer)
        scaler.update()
        loop.record(loss=loss, accuracy=accuracy)

    counts = {"identities": data.identities, "images": len(data)}
    card = Card(train.backbone, backbone.embedding, backbone.channels, **counts, head=train.head, fingerprint=key)
    save_backbone(folder / "backbone.safetensors", backbone, card)
    write_curve(folder / "train.csv", loop.curve, rows(train, per_epoch))
    last = loop.means(per_epoch)
    return {
        **data.counts(),
        "steps": steps,
        "loss": round(last["loss"], 4),  # of the last epoch, as is the accuracy
        "accuracy": round(100 * last["accuracy"], 2),
    }


def sources(train: Train, real: Real, root: Path) -> list[Source]:
    """The sets that the knobs name; one that is named by none but `train.data` is read once.

    Raises:
        StoreError: no set, or a broken one.
        ParamsError: real identities without a set of their own, or domain mixup without any.
    """
    first, second, third = train.weights
    named = [Source("train.data", read_faces(root / train.data), first, stored=train.channels)]
    for name, path, weight in (("train.second", train.second, second), ("train.third", train.third, third)):
        if path not in ("", train.data):
            named.append(Source(name, read_faces(root / path), weight))
    if real.n_ids:
        check(real.data not in ("", train.data), f"real.n_ids is {real.n_ids}: name a set of real people in real.data")
        weight = 1.0 if train.domain_mixup else real.weight
        named.append(Source("real.data", read_faces(root / real.data), weight, real.n_ids))
    check(
        bool(real.n_ids) or not train.domain_mixup, "train.domain_mixup needs real people: set real.data and real.n_ids"
    )
    return named


def orders_of(train: Train, data: FaceDataset) -> Sequence[Order]:
    """What an epoch shows, as the knobs say; with domain mixup, of the others and of the real people."""
    shown = data.domains if train.domain_mixup else lambda *knobs: (data.order(*knobs),)
    return shown(train.buffer if train.order == "shards" else 0, train.balanced)


def check_batches(train: Train, images: int) -> None:
    """Refuse an epoch without a batch, or with one of a single image.

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
    """What a run's steps depend on: the images, the knobs that matter here, the code and torch."""
    train = params.train
    idle: dict[str, object] = {"workers": 0, "checkpoint_minutes": 0.0, "device": device.type}
    idle |= {"data": "elsewhere", "second": "", "third": "", "weights": (1.0, 1.0, 1.0)}  # in the digest
    if device.type == "cuda":
        idle["threads"] = 1
    if train.order == "random":
        idle["buffer"] = 1
    if train.recipe not in ("adaface", "digiface", "synface"):
        idle["augment"] = 0.0
    if train.head != "adaface":
        idle |= {"h": 0.0, "t_alpha": 1.0}
    if train.head != "ArcMarginProduct":
        idle["easy_margin"] = False
    if train.schedule != "multistep":
        idle["milestones"] = ()
    knobs = replace(train, **idle)  # type: ignore[arg-type]
    recipe = params.digiface if train.recipe == "digiface" else None
    return fingerprint(params.seed, knobs, recipe, data.digest(), torch.__version__, code=CODE)


def remedy(train: Train) -> str:
    """What to do when a training diverges."""
    return (
        f"Lower train.lr ({train.lr}), or add train.warmup_epochs ({train.warmup_epochs}) or train.clip ({train.clip})"
    )


def rows(train: Train, per_epoch: int) -> Callable[[int, Mapping[str, float]], dict[str, str | int]]:
    """The rows of `plots/train.csv`: means of losses and accuracies (%), the last step's number and learning rate."""

    def row(done: int, means: Mapping[str, float]) -> dict[str, str | int]:
        return {
            "step": done,
            "epoch": f"{done / per_epoch:.3f}",
            "loss": f"{means['loss']:.4f}",
            "accuracy": f"{100 * means['accuracy']:.2f}",
            "lr": f"{learning_rate(train, (done - 1) / per_epoch):.6f}",
        }

    return row
