"""Render and align the people that the embedded networks learn.

    python render.py --population pretrain --identities 1200 --images-per-look 10 --out encoder/data/align

Writes training shards, `00000.h5` …, as `r2r align` does. Of both looks, a person's first images are in the raster
look, the others in the camera look. A killed run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from stages.store import write_shard
from stages.world import WORLD_RANGES, Look
from stages.world.datasets import dataset, make
from stages.world.portraits import Picture, Portrait, Shot

SIZE = 112  # px, as the source's
IDS_PER_SHARD = 50


def main(
    population: Annotated[str, typer.Option(help="A population of stages.world.WORLD_RANGES.")],
    out: Annotated[Path, typer.Option(help="Folder of the shards.")],
    identities: Annotated[int, typer.Option(help=f"A multiple of {IDS_PER_SHARD}.")] = 1200,
    images_per_look: int = 10,
    looks: Annotated[str, typer.Option(help="raster,camera or one of them.")] = "raster,camera",
    seed: Annotated[int, typer.Option(help="Of the world.")] = 0,
) -> None:
    """Render and align the people of a population."""
    chosen: list[Look] = looks.split(",")  # type: ignore[assignment]
    samples = [range(turn * images_per_look, (turn + 1) * images_per_look) for turn in range(len(chosen))]
    shards = []
    for number in range(identities // IDS_PER_SHARD):
        people = range(number * IDS_PER_SHARD, (number + 1) * IDS_PER_SHARD)
        portraits = [
            Portrait(WORLD_RANGES[population] + person, tuple(map(Shot, shots)), look, SIZE, seed, crop="aligned")
            for person in people
            for look, shots in zip(chosen, samples, strict=True)
        ]
        writer = partial(_write, people=people, count=images_per_look * len(chosen))
        made_from = (population, people.start, people.stop, images_per_look, chosen, SIZE, seed)
        shards.append(dataset(out / f"{number:05d}.h5", portraits, writer, *made_from, code=["store/shard"]))
    make(shards, stage="render")


def _write(path: Path, pictures: Iterator[list[Picture]], people: range, count: int) -> None:
    columns = {
        "identity": np.repeat(np.array(people), count),
        "sample": np.tile(np.arange(count, dtype=np.int32), len(people)),
    }
    write_shard(path, columns, [picture.encoded for portrait in pictures for picture in portrait])


if __name__ == "__main__":
    typer.run(main)
