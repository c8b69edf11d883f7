"""Labelled people of the embedded world in the camera look: what "real" is to its tables of mixtures."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from stages.world import WORLD_RANGES
from stages.world.datasets import dataset, make
from stages.world.portraits import Picture, Portrait, Shot
from stages.world.zips import EPOCH, PEOPLE

FILE = Path("tables/people.zip")
FIRST = WORLD_RANGES["target"] + PEOPLE // 2  # of the target's population, whose images are of its first people


def make_people(root: Path, ids: int = 50, images: int = 10, size: int = 112) -> None:
    """Put `tables/people.zip` into its place, `<person>/<k>.jpg`, aligned; rendered once, and then from the cache."""
    shots = tuple(Shot(sample) for sample in range(images))
    portraits = [Portrait(FIRST + person, shots, "camera", size, 0, crop="aligned") for person in range(ids)]
    make([dataset(root / FILE, portraits, write, ids, images, size, code=["tables/people"])], stage="tables")


def write(path: Path, pictures: Iterator[list[Picture]]) -> None:
    """One list a person."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for person, portrait in enumerate(pictures):
            for k, picture in enumerate(portrait):
                file.writestr(zipfile.ZipInfo(f"{person:02}/{k:02}.jpg", EPOCH), picture.encoded)
