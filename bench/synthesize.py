"""Whether `synthesize` streams an image-to-image method: its rate over the network's own, and its memory as work grows.

    python -m bench.synthesize                    DECENT at the embedded profile's size: the rates
    python -m bench.synthesize --width 4 --images 2000,100000      and a network so small that 100,000 images end

One process with one thread, in CPU time, which a busy machine disturbs least; `of_network` is images/s of the whole
stage (reading, decoding, network, encoding, writing, hashing) over those of the same network on the same images in
memory, `peak_mib` the largest resident memory of the process after each number of images. One JSON line.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from stages.params import Params
from stages.store import encode, write_shard
from stages.synthesize import Synthesize, run
from stages.transfer import create, knobs_of
from stages.transfer.cut import ResnetGenerator, save_states

IMAGES_PER_ID = 10


def write_source(root: Path, identities: int, side: int) -> None:
    """Smooth images with some noise, so that they are as hard to encode as renders."""
    rng = np.random.default_rng(0)
    smooth = rng.random((8, 8, 3)).repeat(side // 8, 0).repeat(side // 8, 1)
    for first in range(0, identities, 100):
        numbers = np.arange(first, min(first + 100, identities))
        images = [
            encode(np.clip(255 * smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))
            for _ in range(len(numbers) * IMAGES_PER_ID)
        ]
        sample = np.tile(np.arange(IMAGES_PER_ID), len(numbers))
        write_shard(
            root / f"data/source/{first:06}.h5",
            {"identity": np.repeat(numbers, IMAGES_PER_ID), "sample": sample},
            images,
        )
    columns = {"identity": np.arange(identities), "chosen": np.ones(identities, bool)}
    write_shard(root / "data/filter.h5", columns)


def main(
    images: Annotated[str, typer.Option(help="Rising numbers of images.")] = "200,1000",
    width: Annotated[int, typer.Option(help="Of the generator.")] = 16,
    blocks: int = 4,
    side: Annotated[int, typer.Option(help="px, a multiple of 8.")] = 112,
) -> None:
    torch.set_num_threads(1)
    counts = [int(count) for count in images.split(",")]
    found: dict[str, float | int | list[int]] = {"width": width, "side": side, "images": counts}
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["R2R_CACHE"] = str(root / "cache")
        write_source(root, max(counts) // IMAGES_PER_ID, side)
        (root / "data/fit").mkdir()
        torch.manual_seed(0)
        save_states(root / "data/fit", {"G": ResnetGenerator(width, blocks)})
        knobs = knobs_of("decent")(size=0, width=width, blocks=blocks, device="cpu")
        params = Params(method="decent", transfer=knobs, images_per_id=IMAGES_PER_ID, synthesize=Synthesize(workers=1))
        method = create(params, root)
        shown = np.stack([method.source.image(row) for row in range(IMAGES_PER_ID)])
        method.network(shown)
        begin = time.process_time()
        for _ in range(5):
            method.network(shown)
        own = 5 * IMAGES_PER_ID / (time.process_time() - begin)
        for count in counts:
            chosen = np.arange(max(counts) // IMAGES_PER_ID) < count // IMAGES_PER_ID
            write_shard(root / "data/filter.h5", {"identity": np.arange(len(chosen)), "chosen": chosen})
            knobs = replace(knobs, lr=1e-4 * count)  # other images for the cache, equal ones for the network
            begin = time.process_time()
            run(replace(params, transfer=knobs), root)
            rate = count / (time.process_time() - begin)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    found |= {"network_per_second": round(own, 1), "images_per_second": round(rate, 1)}
    print(json.dumps(found | {"of_network": round(rate / own, 3), "peak_mib": peaks}))


if __name__ == "__main__":
    typer.run(main)
