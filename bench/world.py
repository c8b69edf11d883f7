"""Speed and memory of the embedded world on one core: `python bench/world.py` prints one JSON line.

CPU seconds, not wall time: assets and numba's cache are warm, and an identity's building is apart from its pictures.
"""

import json
import resource
import time

from stages.world import build_head, render, sample_scene, sample_traits

IDENTITIES, IMAGES, FLOORS = 12, 6, {"raster": 25, "camera": 12}


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    start = time.process_time()
    head = build_head(sample_traits(0))
    for look in FLOORS:
        render(head, sample_scene(0, 0), look)
    out: dict[str, float] = {"first_s": time.process_time() - start}

    start = time.process_time()
    heads = [build_head(sample_traits(i)) for i in range(IDENTITIES)]
    out["identities_per_s"] = IDENTITIES / (time.process_time() - start)
    before = memory()
    for look, floor in FLOORS.items():
        start = time.process_time()
        for i, head in enumerate(heads):
            for k in range(IMAGES):
                render(head, sample_scene(i, k), look)
        out[f"{look}_per_s"] = IDENTITIES * IMAGES / (time.process_time() - start)
        out[f"{look}_over_floor"] = out[f"{look}_per_s"] / floor
    warm = memory()
    for i, head in enumerate(heads):
        for k in range(IMAGES, 2 * IMAGES):
            render(head, sample_scene(i, k), "camera")
    out |= {"peak_mb": memory(), "growth_mb": memory() - warm, "hair_mb_per_identity": (warm - before) / IDENTITIES}
    print(json.dumps({name: round(value, 2) for name, value in out.items()}))


if __name__ == "__main__":
    main()
