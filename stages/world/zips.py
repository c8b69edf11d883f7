"""People of the embedded world in DigiFace-1M's layout: zips of `<subject>/<k>.png`."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from stages.knobs import check
from stages.world import WORLD_RANGES, Look
from stages.world.datasets import Dataset, dataset
from stages.world.portraits import Picture, Portrait, Shot

EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of every member: the bytes depend on the content only
PEOPLE = 10_000_000  # of a population


def population(path: Path, name: str, subjects: range, images_per_id: int, look: Look, size: int, seed: int) -> Dataset:
    """A zip of people 0, 1, … of a population (`WORLD_RANGES`)."""
    shots = tuple(Shot(sample) for sample in range(images_per_id))
    portraits = [Portrait(WORLD_RANGES[name] + subject, shots, look, size, seed) for subject in subjects]
    made_from = (name, subjects.start, subjects.stop, images_per_id, look, size, seed)
    return dataset(path, portraits, partial(write_zip, subjects=subjects), *made_from, code=["world/zips"])


def source_zips(
    folder: Path, name: str, identities: range, images_per_id: int, look: Look, size: int, seed: int, ids_per_zip: int
) -> list[Dataset]:
    """Zips of fixed ranges of `ids_per_zip` people that cover `identities`, each rendered whole.

    Raises:
        ParamsError: more people than a population has.
    """
    most, asked = PEOPLE // ids_per_zip * ids_per_zip, identities.stop
    check(asked <= most, f"{asked:,} people are asked for, but the embedded {name} has {most:,}; lower n_ids")
    firsts = range(identities.start // ids_per_zip * ids_per_zip, identities.stop, ids_per_zip)
    return [
        population(
            folder / f"subjects_{first}-{first + ids_per_zip - 1}_{images_per_id}_imgs.zip",
            name,
            range(first, first + ids_per_zip),
            images_per_id,
            look,
            size,
            seed,
        )
        for first in firsts
    ]


def write_zip(path: Path, pictures: Iterator[list[Picture]], subjects: Iterable[int]) -> None:
    """Members `<subject>/<k>.png`, stored: a PNG does not deflate."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for subject, portrait in zip(subjects, pictures, strict=True):
            for k, picture in enumerate(portrait):
                member = zipfile.ZipInfo(f"{subject}/{k}.png", EPOCH)
                member.external_attr = 0o644 << 16
                file.writestr(member, picture.encoded)
