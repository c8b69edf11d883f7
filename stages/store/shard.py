"""HDF5 shards: written whole, opened read-only, their bytes a function of their content.

A shard is one HDF5 file: named columns of n rows, and optionally n encoded images. The images are one flat byte array,
n + 1 offsets and n checksums, so that a file of a thousand images is four datasets.

Notation: n rows, h x w pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from stages.store.codec import decode
from stages.store.files import StoreError, broken, replacing

OPEN = 16  # shards that `opened` holds at a time: far below the 1,024 files that a process may open
IMAGES = ("images", "offsets", "checksums")


def write_shard(path: Path, columns: Mapping[str, np.ndarray], images: Sequence[bytes] | None = None) -> None:
    """Write a shard and move it into place.

    Args:
        path: where the shard will stand.
        columns: name -> array whose first axis has n rows.
        images: n encoded images (PNG, JPEG or WebP), or none.

    Raises:
        ValueError: the columns and images have different numbers of rows.
        StoreError: it cannot be written, as on a full disk.
    """
    rows = {name: len(column) for name, column in columns.items()}
    if images is not None:
        rows["images"] = len(images)
    if len(set(rows.values())) != 1:
        raise ValueError(f"{path}: columns of different lengths: {rows}")
    with replacing(path) as partial, h5py.File(partial, "w", track_order=False, libver="latest") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, track_times=False)
        if images is not None:
            offsets = np.cumsum([0, *map(len, images)], dtype=np.int64)
            checksums = np.array([zlib.crc32(image) for image in images], np.uint32)
            file.create_dataset("images", data=np.frombuffer(b"".join(images), np.uint8), track_times=False)
            file.create_dataset("offsets", data=offsets, track_times=False)
            file.create_dataset("checksums", data=checksums, track_times=False)


class Shard:
    """A shard opened read-only.

    Raises:
        StoreError: no such file, or it is not a whole shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise broken(path, error, "not a readable shard; delete it and run the stage again") from error
        self.offsets: np.ndarray | None = self.file["offsets"][:] if "offsets" in self.file else None
        self._images = self.file.get("images")  # looking it up costs ten times what reading an image does
        self.names = [name for name in self.file if name not in IMAGES]

    @property
    def begin(self) -> int:
        """Where the first image begins in the file, bytes; the others follow it."""
        return self._images.id.get_offset() or 0

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.offsets is not None else len(self.file[self.names[0]])

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole column."""
        return self.column(name)[:]

    def column(self, name: str) -> h5py.Dataset:
        """A column, of which parts can be read."""
        if name not in self.names:
            raise StoreError(f"{self.path}: no column {name!r}; it has {', '.join(self.names)}")
        return self.file[name]

    @property
    def checksums(self) -> np.ndarray:
        """CRC-32 of each encoded image: [n] uint32."""
        return self.file["checksums"][:]

    def encoded(self, index: int) -> bytes:
        """The encoded bytes of one image."""
        if self.offsets is None:
            raise StoreError(f"{self.path}: holds no images")
        begin, end = self.offsets[index : index + 2]
        return self._images[begin:end].tobytes()

    def image(self, index: int) -> np.ndarray:
        """One decoded image: [h, w, 3] uint8, RGB."""
        return decode(self.encoded(index), f"{self.path}, row {index}")

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def opened(path: Path) -> Shard:
    """The shard that stands at `path` now, for readers that come back to few; one that falls out is closed by Python.

    Raises:
        StoreError: as `Shard`.
    """
    try:
        number = path.stat().st_ino
    except OSError:
        number = 0  # the reader says what is wrong
    return _opened(path, number)


@lru_cache(OPEN)
def _opened(path: Path, number: int) -> Shard:
    return Shard(path)
