"""The training loop (`r2r train`), read from top to bottom.

A killed run goes on from its last checkpoint, and a setting that was trained before is taken from the cache
(`$R2R_CACHE/train/<fingerprint>`): DVC deletes outputs and throws whole checkouts away. A step depends on the weights
before it and on (seed, step) only, so that a resumed run ends with the bytes of one that was never killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stages.images import read_faces
from stages.knobs import check
from stages.store import fingerprint, link, write_json
from stages.train.backbones import Backbone, Card, save_backbone
from stages.train.data import Channels, FaceDataset, Source, load
from stages.train.heads import create_head
from stages.train.knobs import Real, Train
from stages.train.mixup import domain_ratio, mix_images, mix_labels
from stages.train.networks import create_backbone, create_on_meta, normalise
from stages.train.order import Key, Order, batches, epoch_steps
from stages.train.partial_fc import PartialFC
from stages.train.recipes import create_recipe
from stages.train.safety import check_batches, fault, gradient_norm, remedy, show_batch
from stages.train.schedule import learning_rate, parameter_groups
from stages.train.setup import mode, prepare_device, prepare_torch, processes, provenance, scaled
from stages.train.validation import Validation
from stages.training import Average, Diverged, Loop, Part, made_once, write_curve
from stages.training.distributed import Ranks, apart, grad_scaler, joined, launch, spread, started
from stages.training.viewer import viewer

if TYPE_CHECKING:
    from stages.params import Params

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CODE = (
    *(f"train/{name}" for name in ("stage", "data", "order", "networks", "heads", "partial_fc", "mixup", "schedule")),
    *(f"train/{name}" for name in ("recipes", "augment", "randaugment", "digiface")),
    *(f"training/{name}" for name in ("schedules", "average", "distributed")),
    "store/codec",
)


def run(params: Params, root: Path = Path(".")) -> None:
    """Train on the sets of faces; write `data/train/backbone.safetensors`, `metrics/train.json`, `plots/train.csv`.

    Beside them, `data/train_provenance.json` says where and how: device, mode, versions, seconds. It is no
    output of DVC's, since it differs from run to run.

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
        network = create_on_meta(train.backbone)
        channels: Channels = network.channels
        sees = channels if train.recipe == "adaface" else "rgb"  # official AdaFace augments what its network sees
        recipe = create_recipe(train, params.digiface)
        data = FaceDataset(sources(train, params.real, root), params.seed, recipe, sees, channels, network.columns)
        validation = Validation(train, root) if train.validation not in ("", train.data) else None
        check_batches(train, len(orders_of(train, data)[0]), data.identities, ranks.count)
        if not ranks.first:
            while ranks.tell(False):  # what the first has to learn
                learn(params, data, device, "", root, ranks, validation)
            return
        key = run_fingerprint(params, data, device, ranks.count, validation)

        def make(folder: Path) -> Mapping[str, float]:
            ranks.tell(True)
            return learn(params, data, device, key, folder, ranks, validation)

        try:
            entry = made_once("train", key, "trained", make)
        except Diverged as error:
            batch = next(epochs(train, orders_of(train, data), error.step, error.step + 1))
            show_batch(root / "plots/diverged.png", data, [key for keys in batch for key in keys])
            raise
        ranks.tell(False)
    link(entry.path / "backbone.safetensors", root / "data/train/backbone.safetensors")
    link(entry.path / "provenance.json", root / "data/train_provenance.json")
    link(entry.path / "train.csv", root / "plots/train.csv")
    write_json(root / "metrics/train.json", entry.numbers)


def learn(
    params: Params,
    data: FaceDataset,
    device: torch.device,
    key: str,
    folder: Path,
    ranks: Ranks,
    validation: Validation | None = None,
) -> Mapping[str, float]:
    """Train, and have the first process write backbone, curve and provenance to `folder`; returns the metrics."""
    train = params.train
    prepare_torch(train, device)
    torch.manual_seed(params.seed)
    data.hint()
    data.hold()
    orders = orders_of(train, data)
    per_epoch = epoch_steps(len(orders[0]), train.batch_size, train.last_batch == "keep")
    steps = train.epochs * per_epoch

    backbone = create_backbone(train.backbone)
    head = PartialFC(create_head(train, backbone.embedding, data.identities), train.sample_rate, ranks)
    model = nn.ModuleDict({"backbone": backbone, "head": head}).to(device)
    model.to(memory_format=torch.channels_last)  # as the images arrive
    network = spread(backbone, ranks, device, train.sync_batch_norm)
    if train.compile:
        network.compile()
    groups = parameter_groups(model, train.weight_decay, train.decay_norms)
    optimizer = torch.optim.SGD(groups, train.lr, train.momentum, fused=device.type == "cuda" or None)
    head.keep_whole(optimizer)
    scaler = grad_scaler(ranks, device, enabled=scaled(train))
    average = Average(backbone, train.ema, norms=True) if train.ema else None

    parts: dict[str, Part] = {"model": model, "optimizer": optimizer, "scaler": scaler}
    parts |= {name: part for name, part in (("average", average), ("validation", validation)) if part}
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
    if ranks.first:
        loop.view = viewer(train.viewer, Path("logs") / key[:12], loop.start)
    keys = own_part(epochs(train, orders, loop.start, steps), train.accumulate, ranks)
    feed = loop.watched(load(data, keys, train.workers, pinned=device.type == "cuda"))
    for step in loop:
        passes = list(islice(feed, train.accumulate))
        torch.manual_seed(params.seed * 2**32 + ranks.rank * 2**24 + step)  # of dropout and of the sampled classes
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train, step / per_epoch)
        optimizer.zero_grad()
        ratio = domain_ratio(params.seed, step)
        labels = whole_labels([mix_labels(ratio, *own) if train.domain_mixup else own for _, *own in passes], ranks)
        loss = accuracy = torch.zeros((), device=device)
        for k, (images, *_) in enumerate(passes):
            share = len(labels[k][0]) / sum(len(of_pass) for of_pass, *_ in labels)
            images = normalise(images.to(device, non_blocking=True))
            images = mix_images(ratio, images) if train.domain_mixup else images
            with apart(network, last=k + 1 == len(passes)):
                with torch.autocast(device.type, PRECISIONS[train.precision], enabled=train.precision != "fp32"):
                    embeddings = network(images)
                its_loss, its_accuracy = head(embeddings.float(), *labels[k])
                scaler.scale(its_loss * share).backward()
            loss, accuracy = loss + its_loss.detach() * share, accuracy + its_accuracy * share
        scaler.unscale_(optimizer)
        norm = gradient_norm(backbone, train.clip)
        scaler.step(optimizer)
        scaler.update()
        if average:
            average.update(backbone, step)
        epoch, rest = divmod(step + 1, per_epoch)
        looks = not rest and (epoch % train.validation_epochs == 0 or epoch == train.epochs)
        if validation and looks and ranks.first:
            validation.look(outcome(train, backbone, average), backbone.channels, epoch)
        loop.record(loss=loss, accuracy=accuracy, norm=norm.nan_to_num(0, 0) if scaled(train) else norm)

    last, chosen = loop.means(per_epoch), {}
    if ranks.first:
        backbone = outcome(train, backbone, average)
        if validation:
            backbone.load_state_dict(validation.weights)
            chosen = validation.numbers()
        counts = {"identities": data.identities, "images": len(data)}
        card = Card(train.backbone, backbone.embedding, backbone.channels, **counts, head=train.head, fingerprint=key)
        save_backbone(folder / "backbone.safetensors", backbone, card)
        write_curve(folder / "train.csv", loop.curve, rows(train, per_epoch))
        looked = {"validation": validation.accuracy} if validation else {}
        write_json(folder / "provenance.json", provenance(train, device, ranks.count, loop.seconds) | looked)
    return {
        **data.counts(),
        "steps": steps,
        **chosen,
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


def epochs(train: Train, orders: Sequence[Order], start: int, stop: int) -> Iterator[tuple[list[Key], ...]]:
    """The batches of steps start to stop, one of each order."""
    keep = train.last_batch == "keep"
    return zip(*(batches(order, train.batch_size, start, stop, keep) for order in orders), strict=True)


def own_part(steps: Iterator[tuple[list[Key], ...]], accumulate: int, ranks: Ranks) -> Iterator[list[Key]]:
    """This process's part of each pass of each batch: a batch is the same whatever its passes and processes."""
    for domains in steps:
        for k in range(accumulate):
            passes = [batch[Ranks(k, accumulate).part(len(batch))] for batch in domains]
            yield [key for one in passes for key in one[ranks.part(len(one))]]


def whole_labels(own: list[Sequence[Tensor]], ranks: Ranks) -> list[list[Tensor]]:
    """For each pass the labels of all processes' images, and their weights if they are soft."""
    return [
        [torch.cat(part) for part in zip(*of_pass, strict=True)] for of_pass in zip(*ranks.gather(own), strict=True)
    ]


def outcome(train: Train, backbone: Backbone, average: Average | None) -> Backbone:
    """The network as it would come out now."""
    network = create_backbone(train.backbone).to(next(backbone.parameters()).device)
    network.load_state_dict(backbone.state_dict())
    if average:
        average.copy_to(network)
    return network


def run_fingerprint(
    params: Params, data: FaceDataset, device: torch.device, count: int = 1, validation: Validation | None = None
) -> str:
    """What a run's steps depend on: the images, the knobs that matter here, the code, torch and the processes."""
    train = params.train
    idle: dict[str, object] = {"workers": 0, "viewer": "none", "checkpoint_minutes": 0.0, "device": device.type}
    idle |= {"data": "elsewhere", "second": "", "third": "", "weights": (1.0, 1.0, 1.0)}  # in the digest
    idle |= {"processes": count, "mode": mode(train, device)}
    idle |= {"validation": "", "validation_by_test": False}  # as above
    if not validation:
        idle["validation_epochs"] = 1
    if device.type == "cuda":
        idle["threads"] = 1
    if count == 1:
        idle["sync_batch_norm"] = True
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
    chosen_by = (validation.digest(), validation.test) if validation else None
    return fingerprint(params.seed, knobs, recipe, data.digest(), chosen_by, torch.__version__, code=CODE)


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
