"""MTCNN against facenet-pytorch's on one machine, with the same parameters: speed and agreement.

    pip install --target peer --no-deps facenet-pytorch
    PYTHONPATH=peer:. python -m bench.mtcnn FOLDER_OR_ZIP [--images 256] [--size 192]

Prints one JSON line. Both run in turns, and the best of the turns counts, in CPU time: other work on the machine slows
both. `ratio` is ours over the peer's image-by-image mode, as it is used; `ratio_batched` over its batch mode.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from stages.align.mtcnn import MTCNN
from stages.images import Archive
from stages.store import decode

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=192, help="px; images of another size are resized")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    from facenet_pytorch import MTCNN as Peer

    torch.set_num_threads(options.threads)
    images = photographs(options.photographs, options.images, options.size)
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    ours, peer = MTCNN(device=options.device), Peer(keep_all=True, device=options.device)
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: [faces for batch in batches for faces in ours.detect(batch)],
        "peer": lambda: [peer.detect(image, landmarks=True) for image in images],
        "peer_batched": lambda: [peer.detect(np.stack(batch), landmarks=True) for batch in batches],
    }
    clock = time.process_time if options.device == "cpu" and options.threads == 1 else time.perf_counter
    seconds, results = dict.fromkeys(runs, np.inf), {}
    for _ in range(options.turns):
        for name, run in runs.items():
            start = clock()
            results[name] = run()
            seconds[name] = min(seconds[name], clock() - start)
    print(
        json.dumps(
            {
                "bench": "mtcnn",
                "images": len(images),
                "size": options.size,
                "threads": options.threads,
                "device": options.device,
                **{f"{name}_images_per_s": round(len(images) / time, 1) for name, time in seconds.items()},
                "ratio": round(seconds["peer"] / seconds["ours"], 2),
                "ratio_batched": round(seconds["peer_batched"] / seconds["ours"], 2),
                **agreement(results["ours"], results["peer"]),
            }
        )
    )


def photographs(path: Path, count: int, size: int) -> list[np.ndarray]:
    """`count` images spread over the archive, [size, size, 3]."""
    archive = Archive(path)
    names = [archive.names[i] for i in np.linspace(0, len(archive.names) - 1, count).astype(int)]
    return [
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) if image.shape[:2] != (size, size) else image
        for image in (decode(archive.encoded(name), name) for name in names)
    ]


def agreement(ours: list[Any], peer: list[Any]) -> dict[str, float | int]:
    """Faces found, images with another number of faces, and the largest differences where the number is the same."""
    counts = [0 if boxes is None else len(boxes) for boxes, _, _ in peer]
    same = [
        (faces, boxes, points)
        for faces, (boxes, _, points), n in zip(ours, peer, counts, strict=True)
        if n == len(faces) and n
    ]
    return {
        "faces": sum(counts),
        "images_of_another_count": sum(n != len(faces) for faces, n in zip(ours, counts, strict=True)),
        "box_px": float(max(np.abs(faces.boxes - boxes).max() for faces, boxes, _ in same)),
        "landmark_px": float(max(np.abs(faces.landmarks - points).max() for faces, _, points in same)),
    }


if __name__ == "__main__":
    main()
