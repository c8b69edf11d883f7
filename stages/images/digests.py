"""What was read to be hashed, remembered in the cache: a second look at a set costs its files' dates.

Of each image its length and CRC-32, as a zip and a shard have them in their tables, so that equal content is equal
wherever it lies.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.store import replacing, usable_cache

SETTLED = 2.0  # s after its last change, from which on a file's date tells its next change on any file system


def length_and_crc(encoded: bytes) -> tuple[int, int]:
    """Length and CRC-32 of an image's bytes."""
    return len(encoded), zlib.crc32(encoded)


def stamp(path: Path | str, name: str = "") -> int:
    """64 bits of a file's size and times of change, and of its name; 0 where it changed just now."""
    status = os.stat(path)
    if status.st_ctime_ns > time.time_ns() - SETTLED * 1e9:
        return 0
    text = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}"
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "little")


def stamps(path: Path, places: np.ndarray) -> np.ndarray:
    """Of the images at [n] places of one file: [n] uint64."""
    whole = stamp(path)
    return places.astype(np.uint64) + np.uint64(whole) if whole else np.zeros(len(places), np.uint64)


def remembered(
    path: Path, stamps: np.ndarray, look: Callable[[list[int]], Iterable[tuple[int, ...]]], numbers: int = 2
) -> np.ndarray:
    """What `look` says of each of a set's n images, from the cache where their stamps are known.

    Args:
        path: of the set.
        stamps: [n] uint64; 0 is never remembered.
        look: gives `numbers` numbers below 2^32 of each of the places.
        numbers: how many.

    Returns:
        [n, numbers] int64
    """
    row = np.dtype([("stamp", "<u8"), ("values", "<u4", (numbers,))])
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    file = usable_cache() / "digests" / f"{name}.npy"
    known = _load(file, row)
    place = np.searchsorted(known["stamp"], stamps)
    place[place == len(known)] = 0
    done = known["stamp"][place] == stamps if len(known) else np.zeros(len(stamps), bool)
    values = np.zeros((len(stamps), numbers), np.int64)
    values[done] = known["values"][place[done]]
    todo = np.flatnonzero(~done).tolist()
    if todo:
        try:
            bar = tqdm(look(todo), f"read {path.name} once", len(todo), unit=" images", delay=2)
            for number, found in zip(todo, bar, strict=True):
                values[number] = found
                done[number] = True
        finally:  # of a run that is stopped too
            keep = np.flatnonzero(done & (stamps != 0))
            table = np.empty(len(keep), row)
            table["stamp"], table["values"] = stamps[keep], values[keep]
            table.sort(order="stamp")
            with replacing(file) as partial, partial.open("wb") as output:
                np.save(output, table)
    return values


def _load(file: Path, row: np.dtype) -> np.ndarray:
    try:
        known = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return np.empty(0, row)
    return known if known.dtype == row else np.empty(0, row)
