"""What training costs: the loader, an image's augmentation, a whole step beside a plain loop, the head's memory.

    python -m bench.train [network ...]

`loader` is images/s of two processes on two cores, augmented as AdaFace augments, and `loader_to_pil` that over
torchvision's ImageFolder with the same augmentations on Pillow's images. `recipe_*_us` is what an image's augmentation
takes. For each network and number of classes, `_ms` is what an image of a step takes (reading, augmenting, forward,
head, backward, optimiser), `_to_plain` how many times faster that is than a loop in arcface_torch's style, and
`_of_matmul` the step's floating-point rate over that of a large matrix product. `head_*_mb` is what the head takes at
a batch of 128: weight, gradient, momentum, and what the loss keeps; `head_*_sampled_mb` at a sample rate of 0.1.

On a CPU all is CPU time of all threads together, which a busy machine disturbs least; on n idle cores a step takes
1 / n of it. On a GPU it is time. One JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as TF

from bench.read import WORKERS, cpu_seconds, pictures, write_folder, write_shards
from stages.params import Params
from stages.store import decode, write_shard
from stages.train import stage
from stages.train.costs import STEP, flops
from stages.train.data import FaceDataset, load
from stages.train.heads import create_head
from stages.train.knobs import DigiFace, Train
from stages.train.networks import create_backbone
from stages.train.order import batches
from stages.train.partial_fc import PartialFC
from stages.train.recipes import create_recipe
from stages.training import Loop

GPU = torch.cuda.is_available()
CLASSES = (10_000, 87_000)
BATCH = {"iresnet_tiny": 64, "ir_18": 16, "ir_50": 8}  # of few images where a step takes long
SIDE = 2048  # of the matrix product
STEPS = 4  # that are measured, after a first
IMAGES, REPEATS = 2000, 3  # that a loader reads, and how often
NORMAL = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])


def now() -> float:
    """Seconds: of the processor, or of the clock when the GPU has come here."""
    if not GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable[[], object]) -> float:
    begin = now()
    call()
    return now() - begin


class Measured(Exception):
    """Enough steps were seen."""


def seconds_a_step(seen: list[float]) -> float:
    """Of when steps began, the first of which is not counted."""
    return (seen[-1] - seen[1]) / (len(seen) - 2)


# --- the loader ---


def pil_augment(image: Image.Image) -> Image.Image:
    """AdaFace's three augmentations and the flip on Pillow's images."""
    if torch.rand(()) < 0.2:
        top, left, height, width = transforms.RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3))
        window = Image.new("RGB", image.size)
        window.paste(TF.crop(image, top, left, height, width), (left, top))
        image = window
    if torch.rand(()) < 0.2:
        side = int(torch.empty(()).uniform_(0.2, 1.0) * image.width)
        down, up = torch.randint(5, (2,)).tolist()
        small = cv2.resize(np.array(image), (side, side), interpolation=down)
        image = Image.fromarray(cv2.resize(small, image.size, interpolation=up))
    if torch.rand(()) < 0.2:
        image = transforms.ColorJitter(0.5, 0.5, 0.5)(image)
    return TF.hflip(image) if torch.rand(()) < 0.5 else image


def rate(loader: DataLoader) -> float:
    """Images/s on as many cores as there are processes, from their CPU time."""
    begin = cpu_seconds()
    count = sum(len(labels) for _, labels in loader)
    return WORKERS * count / (cpu_seconds() - begin)


def loaders(root: Path, count: int) -> dict[str, float]:
    images = pictures(count, "jpeg")
    write_folder(root / "folder", images, "jpg")
    write_shards(root / "shards", images)
    data = FaceDataset(root / "shards", 0, create_recipe(Train(), DigiFace()))
    plain = ImageFolder(root / "folder", transforms.Compose([pil_augment, NORMAL]))
    ours, theirs = [], []
    for _ in range(REPEATS):  # in turns, so that a busy moment strikes both
        ours.append(rate(load(data, batches(data.order(), 128, 0, count // 128), WORKERS)))
        theirs.append(rate(DataLoader(plain, 128, shuffle=True, drop_last=True, num_workers=WORKERS)))
    return {"loader": round(max(ours)), "loader_to_pil": round(max(ours) / max(theirs), 2)}


def recipes(count: int) -> dict[str, float]:
    images = [decode(image) for image in pictures(min(count, 200), "jpeg")]
    numbers = {}
    for name in ("adaface", "insightface", "randaugment", "digiface"):
        recipe = create_recipe(Train(recipe=name), DigiFace())

        def augment(recipe=recipe) -> None:
            for number in range(count):
                recipe(images[number % len(images)], np.random.default_rng([0, number]))

        numbers[f"recipe_{name}_us"] = round(timed(augment) / count * 1e6, 1)
    return numbers


# --- the step ---


class Repeated(Dataset):
    """As many people as there are classes, of one file: read by Pillow, flipped, as arcface_torch has them."""

    transform = transforms.Compose([transforms.RandomHorizontalFlip(), NORMAL])

    def __init__(self, path: Path, classes: int) -> None:
        self.path, self.classes = path, classes

    def __len__(self) -> int:
        return self.classes

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(self.path).convert("RGB")), index


def plain_step(name: str, precision: str, batch: int, classes: int, path: Path, steps: int) -> float:
    """Seconds a step of a loop in arcface_torch's style: `train_v2.py` on one device, with the whole head."""
    device = "cuda" if GPU else "cpu"
    network = create_backbone(name).to(device)
    weight = nn.Parameter(torch.normal(0, 0.01, (classes, network.embedding), device=device))
    optimizer = torch.optim.SGD([*network.parameters(), weight], lr=1e-3, momentum=0.9, weight_decay=5e-4)
    seen = []
    for images, labels in DataLoader(Repeated(path, classes), batch, shuffle=True, drop_last=True):
        seen.append(now())
        if len(seen) == steps + 2:
            break
        images, labels = images.to(device), labels.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            embeddings = network(images)
        cosines = F.linear(F.normalize(embeddings.float()), F.normalize(weight)).clamp(-1, 1)
        rows = torch.arange(batch, device=device)
        margin = (cosines[rows, labels].detach().arccos() + 0.5).cos() - cosines[rows, labels].detach()
        logits = cosines.clone()
        logits[rows, labels] += margin
        loss = F.cross_entropy(logits * 64, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # for its log
    return seconds_a_step(seen)


def our_step(name: str, precision: str, batch: int, root: Path, steps: int) -> float:
    """Seconds a step of `r2r train`."""
    seen: list[float] = []

    class Watched(Loop):
        def __iter__(self) -> Iterator[int]:
            for step in super().__iter__():
                seen.append(now())
                if len(seen) == steps + 2:
                    raise Measured
                yield step

    knobs: dict[str, Any] = {"head": "arcface", "margin": 0.5, "clip": 5.0, "recipe": "insightface", "lr": 1e-3}
    knobs["checkpoint_minutes"] = 1e6
    knobs |= {"backbone": name, "batch_size": batch, "precision": precision, "threads": torch.get_num_threads()}
    loop, stage.Loop = stage.Loop, Watched  # type: ignore[misc]
    try:
        stage.run(Params(train=Train(epochs=1, **knobs)), root)
    except Measured:
        return seconds_a_step(seen)
    finally:
        stage.Loop = loop  # type: ignore[misc]
        torch.use_deterministic_algorithms(False)
    raise ValueError(f"{name}: an epoch has only {len(seen)} steps of {batch} images")


def matmul_rate(precision: str, side: int) -> float:
    """Floating-point operations a second of a large matrix product."""
    a = torch.rand(side, side, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    a = a.cuda() if GPU else a
    return 2 * side**3 / min(timed(lambda: a @ a) for _ in range(5))


def steps_of(name: str, precision: str, classes: int, root: Path, steps: int, side: int) -> dict[str, float]:
    path = root / "face.jpg"
    Image.fromarray(decode(pictures(1, "png")[0])).save(path, quality=50)
    columns = {"identity": np.arange(classes), "sample": np.zeros(classes, int)}
    write_shard(root / "data/align/0.h5", columns, [path.read_bytes()] * classes)
    batch = BATCH[name]
    plain = plain_step(name, precision, batch, classes, path, steps) / batch
    ours = our_step(name, precision, batch, root, steps) / batch
    work = STEP * (flops(name) + 2 * create_backbone(name).embedding * classes)
    label = f"{name}_{classes}"
    return {
        f"{label}_ms": round(ours * 1e3, 2),
        f"{label}_to_plain": round(plain / ours, 2),
        f"{label}_of_matmul": round(work / ours / matmul_rate(precision, side), 3),
    }


def head_mb(classes: int, rate: float = 1.0, batch: int = 128, embedding: int = 512) -> float:
    """Megabytes: weight, gradient and momentum of a head, and what its loss keeps for the backward pass."""
    head, kept = PartialFC(create_head(Train(head="arcface"), embedding, classes), rate), {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        embeddings = torch.rand(batch, embedding, requires_grad=True)
        loss, _ = head(embeddings, torch.arange(batch) % classes)
    kept.pop(head.head.kernel.untyped_storage().data_ptr(), None)
    del loss
    return round((3 * 4 * embedding * classes + sum(kept.values())) / 2**20, 1)


def main(
    names: list[str],
    precision: str = "bf16",
    steps: int = STEPS,
    side: int = SIDE,
    classes: tuple[int, ...] = CLASSES,
    images: int = IMAGES,
) -> dict[str, float]:
    cv2.setNumThreads(1)
    numbers: dict[str, float] = {"threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["R2R_CACHE"] = f"{folder}/cache"
        numbers |= loaders(Path(folder), images) | recipes(images)
        for count in classes:
            for name in names:
                numbers |= steps_of(name, precision, count, Path(folder), steps, side)
            numbers |= {f"head_{count}_mb": head_mb(count), f"head_{count}_sampled_mb": head_mb(count, 0.1)}
    return numbers


if __name__ == "__main__":
    print(json.dumps({"bench": "train", **main(sys.argv[1:] or ["ir_18", "ir_50"])}))
