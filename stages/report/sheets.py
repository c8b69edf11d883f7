"""Sample sheets: an identity a row. Sheets are [H, W, 3] uint8, RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from stages.fetch.digiface import Source
from stages.fetch.images import ImageArchive
from stages.filter import contact_sheet
from stages.store import Shard, StoreError, decode

TILE, GAP = 96, 2  # px


def chosen_identities(path: Path, count: int | None = None) -> list[int]:
    """Filter's chosen identities, from the farthest from its nearest other to the closest; evenly `count` of them.

    Raises:
        StoreError: none is chosen.
    """
    with Shard(path) as shard:
        chosen = shard["identity"][shard["chosen"]]
    if not len(chosen):
        raise StoreError(f"{path}: no identity is chosen; run `r2r filter` again")
    count = len(chosen) if count is None else count
    return chosen[np.linspace(0, len(chosen) - 1, min(count, len(chosen))).round().astype(int)].tolist()


def source_sheet(folder: Path, identities: Sequence[int], columns: int) -> np.ndarray:
    """The first images of source identities."""
    source = Source(folder)
    rows = {}
    for identity in identities:
        samples = source.samples(identity)[:columns]
        rows[f"identity {identity}"] = [decode(source.encoded(identity, k), f"{identity}/{k}.png") for k in samples]
    return sheet(rows, columns)


def target_sheet(path: Path, count: int, columns: int) -> np.ndarray:
    """The first images of the target: a person a row where the archive has a folder for each."""
    archive = ImageArchive(path)
    names = sorted(archive.names, key=lambda name: [(len(part), part) for part in name.split("/")])
    folders = {
        f"person {folder}": list(members) for folder, members in groupby(names, lambda name: name.rpartition("/")[0])
    }
    if len(folders) == 1:
        folders = {f"from {names[row]}": names[row : row + columns] for row in range(0, len(names), columns)}
    chosen = list(folders.items())[:count]
    rows = {title: [decode(archive.encoded(name), name) for name in members[:columns]] for title, members in chosen}
    return sheet(rows, columns)


def align_sheet(folder: Path, identities: Sequence[int], columns: int) -> np.ndarray:
    """The first aligned images of identities; the row of one in which no face was found is empty."""
    shards = sorted(folder.glob("*.h5"))
    if not shards:
        raise StoreError(f"{folder}: no shards; run `r2r align` first")
    rows: dict[int, list[np.ndarray]] = {identity: [] for identity in identities}
    for path in shards:
        with Shard(path) as shard:
            for row, identity in enumerate(shard["identity"].tolist()):
                if identity in rows and len(rows[identity]) < columns:
                    rows[identity].append(shard.image(row))
    return sheet({f"identity {identity}": images for identity, images in rows.items()}, columns)


def sheet(rows: Mapping[str, Sequence[np.ndarray]], columns: int) -> np.ndarray:
    """Rows of up to `columns` images of any sizes, the row's title below it."""
    tiles = np.full((len(rows), TILE, columns, TILE + GAP, 3), 255, np.uint8)
    for tile, images in zip(tiles, rows.values(), strict=True):
        for column, image in enumerate(images):
            tile[:, column, :TILE] = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_AREA)
    return contact_sheet(list(tiles.reshape(len(rows), TILE, -1, 3)), list(rows), columns=1)
