"""The training loop (`r2r train`), read from top to bottom.

A killed run goes on from its last checkpoint, and a setting that was trained before is taken from the cache
(`$R2R_CACHE/train/<fingerprint>`): DVC deletes outputs and throws whole checkouts away. A step depends on the weights
before it and on (seed, step) only, so that a resumed run ends with the bytes of one that was never killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stages.store import fingerprint, link, write_json
from stages.train.backbones import Card, save_backbone
from stages.train.data import Channels, FaceDataset, batches, epoch_steps
from stages.train.heads import create_head
from stages.train.knobs import Train
from stages.train.networks import create_backbone, create_on_meta, normalise
from stages.train.partial_fc import PartialFC
from stages.train.safety import check_batches, fault, gradient_norm, remedy, show_batch
from stages.train.schedule import learning_rate, parameter_groups
from stages.train.setup import mode, prepare_device, prepare_torch, processes, provenance, scaled
from stages.training import Average, Diverged, Loop, Part, made_once, write_curve
from stages.training.distributed import Ranks, apart, grad_scaler, joined, launch, spread, started

if TYPE_CHECKING:
    from stages.params import Params

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CODE = (
    *(f"train/{name}" for name in ("stage", "data", "augment", "networks", "heads", "partial_fc", "schedule")),
    *(f"training/{name}" for name in ("schedules", "average", "distributed")),
    "store/codec",
)


def run(params: Params, root: Path = Path(".")) -> None:
    """Train on `train.data`; write `data/train/backbone.safetensors`, `metrics/train.json` and `plots/train.csv`.

    Beside them, `data/train_provenance.json` says where and how: device, mode, versions, seconds.

    Raises:
        StoreError: no images, or broken ones, or a process that was killed.
        ParamsError: one identity, fewer images than a batch, a device that is not there, or a training that diverged;
            `plots/diverged.png` shows the batch then.
    """
    train, device = params.train, prepare_device(params.train)
    if not started() and (count := processes(train, device)) > 1:
        launch(count, run, params, root.absolute())
        return
    with joined(device.type) as ranks:
        channels: Channels = create_on_meta(train.backbone).channels
        data = FaceDataset(root / train.data, params.seed, train.augment, train.flip, train.channels, channels)
        check_batches(train, len(data), len(data.identities), ranks.count)
        if not ranks.first:
            while ranks.tell(False):  # what the first has to learn
                learn(params, data, device, "", root, ranks)
            return
        key = run_fingerprint(params, data, device, ranks.count)

        def make(folder: Path) -> Mapping[str, float]:
            ranks.tell(True)
            return learn(params, data, device, key, folder, ranks)

        try:
            entry = made_once("train", key, "trained", make)
        except Diverged as error:
            show_batch(root / "plots/diverged.png", data, next(epochs(params, data, error.step, error.step + 1)))
            raise
        ranks.tell(False)
    link(entry.path / "backbone.safetensors", root / "data/train/backbone.safetensors")
    link(entry.path / "provenance.json", root / "data/train_provenance.json")
    link(entry.path / "train.csv", root / "plots/train.csv")
    write_json(root / "metrics/train.json", entry.numbers)


def learn(
    params: Params, data: FaceDataset, device: torch.device, key: str, folder: Path, ranks: Ranks
) -> Mapping[str, float]:
    """Train, and have the first process write backbone, curve and provenance to `folder`; returns the metrics."""
    train = params.train
    prepare_torch(train, device)
    torch.manual_seed(params.seed)
    data.hint()
    data.hold()
    per_epoch = epoch_steps(len(data), train.batch_size, train.last_batch == "keep")
    steps = train.epochs * per_epoch

    backbone = create_backbone(train.backbone)
    head = PartialFC(create_head(train, backbone.embedding, len(data.identities)), train.sample_rate, ranks)
    model = nn.ModuleDict({"backbone": backbone, "head": head}).to(device)
    model.to(memory_format=torch.channels_last)  # as the images arrive
    network = spread(backbone, ranks, device, train.sync_batch_norm)
    if train.compile:
        network.compile()
    groups = parameter_groups(model, train.weight_decay)
    optimizer = torch.optim.SGD(groups, train.lr, train.momentum, fused=device.type == "cuda" or None)
    head.keep_whole(optimizer)
    scaler = grad_scaler(ranks, device, enabled=scaled(train))
    average = Average(backbone, train.ema, norms=True) if train.ema else None

    parts: dict[str, Part] = {"model": model, "optimizer": optimizer, "scaler": scaler}
    parts |= {"average": average} if average else {}
    loop = Loop(
        "train",
        key,
        parts,
        steps,
        ("loss", "accuracy", "norm"),
        train.checkpoint_minutes,
        train.batch_size,
        remedy(train),
        ranks=ranks,
        fault=lambda curve, step: fault(train, curve, step),
        line=lambda step: {"lr": learning_rate(train, step / per_epoch)},
    )
    keys = own_part(epochs(params, data, loop.start, steps), train.accumulate, ranks)
    loader = DataLoader(data, batch_sampler=keys, num_workers=train.workers)
    feed = loop.watched(loader)
    for step in loop:
        passes = list(islice(feed, train.accumulate))
        torch.manual_seed(params.seed * 2**32 + ranks.rank * 2**24 + step)  # of dropout and of the sampled classes
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train, step / per_epoch)
        optimizer.zero_grad()
        labels = whole_labels([own for _, own in passes], ranks)
        loss = accuracy = torch.zeros((), device=device)
        for k, (images, _) in enumerate(passes):
            share = len(labels[k]) / sum(map(len, labels))
            with apart(network, last=k + 1 == len(passes)):
                with torch.autocast(device.type, PRECISIONS[train.precision], enabled=train.precision != "fp32"):
                    embeddings = network(normalise(images.to(device, non_blocking=True)))
                its_loss, its_accuracy = head(embeddings.float(), labels[k])
                scaler.scale(its_loss * share).backward()
            loss, accuracy = loss + its_loss.detach() * share, accuracy + its_accuracy * share
        scaler.unscale_(optimizer)
        norm = gradient_norm(backbone, train.clip)
        scaler.step(optimizer)
        scaler.update()
        if average:
            average.update(backbone, step)
        loop.record(loss=loss, accuracy=accuracy, norm=norm.nan_to_num(0, 0) if scaled(train) else norm)

    if average:
        average.copy_to(backbone)
    counts = {"identities": len(data.identities), "images": len(data)}
    last = loop.means(per_epoch)
    if ranks.first:
        card = Card(train.backbone, backbone.embedding, backbone.channels, **counts, head=train.head, fingerprint=key)
        save_backbone(folder / "backbone.safetensors", backbone, card)
        write_curve(folder / "train.csv", loop.curve, rows(train, per_epoch))
        write_json(folder / "provenance.json", provenance(train, device, ranks.count, loop.seconds))
    return {
        **counts,
        "steps": steps,
        "loss": round(last["loss"], 4),  # of the last epoch, as is the accuracy
        "accuracy": round(100 * last["accuracy"], 2),
    }


def epochs(params: Params, data: FaceDataset, start: int, stop: int) -> Iterator[list[Any]]:
    """The batches of steps start to stop."""
    keep = params.train.last_batch == "keep"
    return batches(len(data), params.train.batch_size, start, stop, params.seed, keep)


def own_part(keys: Iterator[list[Any]], accumulate: int, ranks: Ranks) -> Iterator[list[Any]]:
    """This process's part of each pass of each batch: a batch is the same whatever its passes and processes."""
    for batch in keys:
        for k in range(accumulate):
            one = batch[Ranks(k, accumulate).part(len(batch))]
            yield one[ranks.part(len(one))]


def whole_labels(own: list[Tensor], ranks: Ranks) -> list[Tensor]:
    """The labels of all processes' images, [n] int64 for each pass."""
    return [torch.cat(of_pass) for of_pass in zip(*ranks.gather(own), strict=True)]


def run_fingerprint(params: Params, data: FaceDataset, device: torch.device, count: int = 1) -> str:
    """What a run's steps depend on: the images, the knobs that matter here, the code, torch and the processes."""
    train = params.train
    idle: dict[str, object] = {"data": "elsewhere", "workers": 0, "checkpoint_minutes": 0.0, "device": device.type}
    idle |= {"processes": count, "mode": mode(train, device)}
    if device.type == "cuda":
        idle["threads"] = 1
    if count == 1:
        idle["sync_batch_norm"] = True
    if train.head != "adaface":
        idle |= {"h": 0.0, "t_alpha": 1.0}
    if train.schedule != "multistep":
        idle["milestones"] = ()
    knobs = replace(train, **idle)  # type: ignore[arg-type]
    return fingerprint(params.seed, knobs, data.faces.digest(), torch.__version__, code=CODE)


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
