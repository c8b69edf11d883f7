"""Render and align the people that the embedded networks learn.

    python render.py --population pretrain --identities 1200 --images-per-look 10 --out encoder/data/align

Writes training shards, `00000.h5` …, as `r2r align` does. Of both looks, a person's first images are in the raster
look, the others in the camera look. A killed run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tqdm import tqdm

from stages.store import fingerprint, is_current, write_shard
from stages.world import WORLD_RANGES, Look
from stages.world.datasets import Portrait, Shot, in_processes, photograph

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
    stamp = fingerprint(population, images_per_look, chosen, SIZE, seed, code=["world", "align/mtcnn", "align/warp"])
    paths = [out / f"{k:05d}.h5" for k in range(identities // IDS_PER_SHARD)]
    missing = [k for k, path in enumerate(paths) if not is_current(path, f"{stamp} {k}")]

    def portraits() -> Iterator[Portrait]:
        for k in missing:
            for identity in range(k * IDS_PER_SHARD, (k + 1) * IDS_PER_SHARD):
                for turn, look in enumerate(chosen):
                    shots = tuple(
                        Shot(sample) for sample in range(turn * images_per_look, (turn + 1) * images_per_look)
                    )
                    first = WORLD_RANGES[population]
                    yield Portrait(first + identity, shots, look, SIZE, seed, crop="aligned")

    per_shard = IDS_PER_SHARD * images_per_look * len(chosen)
    done = (len(paths) - len(missing)) * per_shard
    bar = tqdm(desc="render", initial=done, total=len(paths) * per_shard, unit="img", smoothing=0.01)
    pictures = in_processes(photograph, portraits())
    for k in missing:
        images: list[bytes] = []
        while len(images) < per_shard:
            portrait = [picture.encoded for picture in next(pictures)]
            images += portrait
            bar.update(len(portrait))
        people = np.arange(k * IDS_PER_SHARD, (k + 1) * IDS_PER_SHARD)
        columns = {
            "identity": np.repeat(people, images_per_look * len(chosen)),
            "sample": np.tile(np.arange(images_per_look * len(chosen), dtype=np.int32), IDS_PER_SHARD),
        }
        write_shard(paths[k], columns, images, fingerprint=f"{stamp} {k}")


if __name__ == "__main__":
    typer.run(main)
