"""Images that a protocol names by their paths in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from stages.evaluate.benchmarks import Images, Landmarks
from stages.store import StoreError


def folder_images(folder: Path, names: Sequence[str], landmarks: Landmarks | None = None) -> Images:
    """The named images of a folder; all must be there.

    The digest is over names, sizes, times of change and landmarks: reading IJB-C's 469,375 images to hash them would
    take minutes, and an image touched without a change costs no more than computing again.

    Raises:
        StoreError: images are missing; the message says how many and which first.
    """
    there: dict[str, os.stat_result] = {}
    for place in sorted({os.path.dirname(name) for name in names}):
        if (folder / place).is_dir():
            there.update({os.path.join(place, entry.name): entry.stat() for entry in os.scandir(folder / place)})
    missing = [name for name in names if name not in there]
    if missing:
        raise StoreError(
            f"{folder}: {len(missing)} of {len(names)} images are missing, first {missing[0]}; unpack the images again"
        )
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{there[name].st_size}\0{there[name].st_mtime_ns}\0".encode())
    if landmarks is not None:
        digest.update(landmarks.points.tobytes())
    return Images(names, lambda number: (folder / names[number]).read_bytes(), digest.hexdigest(), landmarks=landmarks)
