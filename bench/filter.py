"""The two nearest identities of 110,000 (DigiFace-1M's number): this project against FAISS's flat search, in one run.

    python -m bench.filter [identities] [device]

FAISS answers the same question by k = 2 inner products of everyone with everyone, oneself among them. It is
no dependency: `pip install -e '.[bench]'` first. Peak memory is read before FAISS is imported.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

import numpy as np
import torch

from stages.filter import nearest

DIMENSION = 512


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 110_000
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    vectors = np.random.default_rng(0).standard_normal((count, DIMENSION), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    nearest(vectors[:4096], device=device)
    begin, cpu = time.perf_counter(), time.process_time()
    similarity, index, _ = nearest(vectors, threshold=0.5, device=device)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    import faiss

    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    begin, cpu = time.perf_counter(), time.process_time()
    distances, neighbours = flat.search(vectors, 2)
    faiss_seconds, faiss_cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu

    print(
        json.dumps(
            {
                "identities": count,
                "device": torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores",
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu_seconds, 2),
                "faiss_seconds": round(faiss_seconds, 2),
                "faiss_cpu_seconds": round(faiss_cpu_seconds, 2),
                "speedup": round(faiss_seconds / seconds, 2),
                "speedup_cpu_time": round(faiss_cpu_seconds / cpu_seconds, 2),
                "peak_gib": round(memory, 2),
                "same_nearest": round(float((neighbours[:, 1] == index).mean()), 6),
                "largest_difference": float(np.abs(distances[:, 1] - similarity).max()),
            }
        )
    )


if __name__ == "__main__":
    main()
