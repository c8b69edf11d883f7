"""Speed and memory of the embedded world on one core: `python -m bench.world` prints one JSON line.

CPU seconds, which a busy machine disturbs least. Compilation happens first, in a process with an empty cache, and is
told apart. `limit` is what no renderer at two samples a pixel and direction goes below: filling its buffers and
resizing one picture, by numpy and OpenCV in the same run; `over_limit` is a rendering's time over it.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from stages.world import build_head, render, sample_scene, sample_traits
from stages.world.head import HAIR_VARIANTS

IDENTITIES, IMAGES, SIZE, FLOORS = 12, 6, 112, {"raster": 25, "camera": 12}


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def first_s() -> float:
    """CPU seconds until the first head and a picture in each look."""
    start = time.process_time()
    head = build_head(sample_traits(0))
    for look in FLOORS:
        render(head, sample_scene(0, 0), look)
    return time.process_time() - start


def compile_s() -> float:
    """`first_s` of a process that finds nothing compiled."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, __file__, "first"],
            env=os.environ | {"NUMBA_CACHE_DIR": empty},
            stdout=subprocess.PIPE,
            check=True,
        )
    return float(done.stdout)


def limit_s(turns: int = 200) -> float:
    """CPU seconds for a picture's buffers (depth, triangle, image) at twice its size, and for making it small."""
    n = 2 * SIZE
    start = time.process_time()
    for _ in range(turns):
        np.zeros((n, n), np.float32)[:] = 1
        np.zeros((n, n), np.int32)[:] = 1
        image = np.zeros((n, n, 3), np.float32)
        image[:] = 1
        cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return (time.process_time() - start) / turns


def main() -> None:
    out = {"compile_s": compile_s(), "first_s": first_s()}
    cv2.setNumThreads(1)
    limit = limit_s()
    out["limit_ms"] = 1e3 * limit

    start = time.process_time()
    heads = [build_head(sample_traits(i)) for i in range(IDENTITIES)]
    out["identities_per_s"] = IDENTITIES / (time.process_time() - start)
    before = memory()
    for head in heads:
        for variant in range(HAIR_VARIANTS):
            head.hair(variant)
    out["identities_with_all_hair_per_s"] = IDENTITIES / (time.process_time() - start)
    warm = memory()
    out["hair_mb_per_identity"] = (warm - before) / IDENTITIES
    for look, floor in FLOORS.items():
        start = time.process_time()
        for i, head in enumerate(heads):
            for k in range(IMAGES):
                render(head, sample_scene(i, k), look, SIZE)
        seconds = (time.process_time() - start) / (IDENTITIES * IMAGES)
        out |= {
            f"{look}_per_s": 1 / seconds,
            f"{look}_over_floor": 1 / seconds / floor,
            f"{look}_over_limit": seconds / limit,
        }
    out |= {"peak_mb": memory(), "growth_mb": memory() - warm}
    print(json.dumps({name: round(value, 2) for name, value in out.items()}))


if __name__ == "__main__":
    print(first_s()) if sys.argv[1:] == ["first"] else main()
