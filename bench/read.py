"""Images/s from every form of a set of faces: `python -m bench.read [images]`.

Each form is read through a DataLoader of two processes, in a shuffled order, and so is torchvision's ImageFolder on the
very same image files. A rate is images by CPU time of all processes, times two cores, which a busy machine disturbs
least; `ratio` is how many times faster than ImageFolder. One JSON line.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2
import lmdb
import msgpack
import numpy as np
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder

from stages.images import Faces, read_faces
from stages.store import encode, write_shard

WORKERS, BATCH, PER_IDENTITY, REPEATS = 2, 128, 20, 3


class Images(Dataset):
    """The decoded images of a set, and their identities."""

    def __init__(self, faces: Faces) -> None:
        self.faces = faces

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.faces.image(index), int(self.faces.identity[index])


def pictures(count: int, codec: str) -> list[bytes]:
    """Encoded images of about the size that faces of 112 px have: smooth colours under a little noise."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)
        images.append(encode(np.clip(smooth + rng.normal(0, 2, smooth.shape), 0, 255).astype(np.uint8), codec))
    return images


def write_folder(folder: Path, images: list[bytes], suffix: str) -> None:
    for number, image in enumerate(images):
        path = folder / f"{number // PER_IDENTITY:06d}/{number % PER_IDENTITY}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


def write_zip(path: Path, images: list[bytes]) -> None:
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as file:
        for number, image in enumerate(images):
            file.writestr(f"{number // PER_IDENTITY}/{number % PER_IDENTITY}.png", image)


def write_shards(folder: Path, images: list[bytes]) -> None:
    for begin in range(0, len(images), 1000):
        numbers = np.arange(begin, min(begin + 1000, len(images)))
        columns = {"identity": numbers // PER_IDENTITY, "sample": numbers % PER_IDENTITY}
        write_shard(folder / f"{begin:08d}.h5", columns, images[begin : begin + 1000])


def write_rec(folder: Path, images: list[bytes]) -> None:
    folder.mkdir()
    content, index = io.BytesIO(), []
    for number, image in enumerate(images):
        index.append(f"{number}\t{content.tell()}\n")
        packed = struct.pack("<IfQQ", 0, number // PER_IDENTITY, number, 0) + image
        content.write(struct.pack("<II", 0xCED7230A, len(packed)) + packed + bytes(-len(packed) % 4))
    (folder / "train.rec").write_bytes(content.getvalue())
    (folder / "train.idx").write_text("".join(index))


def write_lmdb(path: Path, images: list[bytes]) -> None:
    keys = [str(number).encode() for number in range(len(images))]
    with lmdb.open(str(path), subdir=False, map_size=1 << 32) as database, database.begin(write=True) as transaction:
        for number, (key, image) in enumerate(zip(keys, images, strict=True)):
            transaction.put(key, msgpack.packb((image, number // PER_IDENTITY)))
        transaction.put(b"__keys__", msgpack.packb(keys))


def cpu_seconds() -> float:
    """User and system time of this process and of those that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def read_all(data: Dataset) -> float:
    """Images/s of one pass on as many cores as there are processes."""
    order = np.random.default_rng(0).permutation(len(data)).tolist()  # type: ignore[arg-type]
    begin = cpu_seconds()
    read = sum(len(labels) for _, labels in DataLoader(data, BATCH, sampler=order, num_workers=WORKERS))
    return WORKERS * read / (cpu_seconds() - begin)


def main(count: int) -> None:
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        os.environ["R2R_CACHE"] = f"{place}/cache"
        png, jpeg = pictures(count, "png"), pictures(count, "jpeg")
        write_folder(root / "png", png, "png")
        write_folder(root / "jpeg", jpeg, "jpg")
        write_zip(root / "source" / f"subjects_0-{(count - 1) // PER_IDENTITY}_{PER_IDENTITY}_imgs.zip", png)
        write_shards(root / "shards", png)
        write_rec(root / "rec", jpeg)
        write_lmdb(root / "faces.lmdb", jpeg)

        forms = {
            "source zips": (root / "source", "png"),
            "training shards": (root / "shards", "png"),
            "training rec": (root / "rec", "jpeg"),
            "training lmdb": (root / "faces.lmdb", "jpeg"),
            "training folder": (root / "jpeg", "jpeg"),
        }
        rates: dict[str, list[float]] = {}
        for _ in range(REPEATS):  # in turns, so that a busy moment strikes all
            for codec in ("png", "jpeg"):
                rates.setdefault(codec, []).append(read_all(ImageFolder(root / codec, transform=np.array)))
            for name, (path, _) in forms.items():
                rates.setdefault(name, []).append(read_all(Images(read_faces(path))))
        best = {name: max(values) for name, values in rates.items()}
        numbers = {
            name: {"images_per_second": round(best[name]), "ratio": round(best[name] / best[codec], 2)}
            for name, (_, codec) in forms.items()
        }
        print(json.dumps({"bench": "read", "images": count, **numbers}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
