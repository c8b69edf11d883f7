"""Training sets in the forms in which they are distributed, read in place.

| path | what it is | identity | sample | by |
|---|---|---|---|---|
| folder of `*.h5` | this project's shards | a column | a column | `shards` |
| `<name>.rec`, or the folder that holds it | InsightFace's, with `<name>.idx` | label | the record's key | `records` |
| `<name>.lmdb` | HSFace's, MessagePack pairs of image and label | label | place in its list | `database` |
| zip, or folder of images | `<identity>/<image>` | rank of the folder | rank in the folder | `archive` |

The images are aligned face crops. Nothing is unpacked or copied, and no reader holds an image that it has given out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from stages.store import StoreError


class TrainingSet(Protocol):
    """Labelled images; usable in a process forked or spawned after it was made.

    identity, sample: [n] int64, which together name an image; fingerprints: identity of the content.
    """

    identity: np.ndarray
    sample: np.ndarray
    fingerprints: list[str]

    def encoded(self, row: int) -> bytes:
        """The image file of a row."""

    def where(self, row: int) -> str:
        """Where it stands, for messages."""


def read_training_set(path: Path) -> TrainingSet:
    """Open the training set at `path`.

    Raises:
        StoreError: nothing there, or a broken set.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        raise StoreError(f"{path}: no training set; run `r2r align`, or point train.data to another")
    if path.suffix == ".lmdb":
        from stages.train.readers.database import Database

        return Database(path)
    records = [path] if path.suffix == ".rec" else sorted(path.glob("*.rec"))
    if len(records) > 1:
        raise StoreError(f"{path}: holds {', '.join(p.name for p in records)}; point train.data to one of them")
    if records:
        from stages.train.readers.records import Records

        return Records(records[0])
    if any(path.glob("*.h5")):
        from stages.train.readers.shards import Shards

        return Shards(path)
    from stages.train.readers.archive import Archive

    return Archive(path)
