"""A world that costs nothing: pictures that depend on what a portrait asks for, and on nothing else."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from stages.store import encode
from stages.world.portraits import Picture, Portrait


def photograph(portrait: Portrait) -> list[Picture]:
    names = [
        f"{portrait.identity} {portrait.seed} {portrait.look} {portrait.size} {shot.sample} {frame}"
        for shot in portrait.shots
        for frame in range(len(shot.frames))
    ]
    codec = "png" if portrait.crop == "none" else "jpeg"
    return [
        Picture(encode(picture(name), codec), np.full((5, 2), 8.0), 0.75, 1 - k % 2) for k, name in enumerate(names)
    ]


def picture(name: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)


def slow(portrait: Portrait) -> list[Picture]:
    Path(os.environ["FAKE_WORLD_PIDS"], str(os.getpid())).touch()
    time.sleep(0.05)
    return photograph(portrait)


def dies(portrait: Portrait) -> list[Picture]:
    if portrait.identity == 7:
        os._exit(9)
    return photograph(portrait)


def warm() -> None:
    pass
