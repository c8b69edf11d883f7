"""Images without identities: a zip or a folder, read in place."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.images.digests import length_and_crc, remembered, stamp
from stages.images.tree import Names, images_among, walk
from stages.images.zips import Zip
from stages.store import StoreError, decode
from stages.store.files import broken

THREADS, BLOCK = 8, 4096  # readers of a folder that is hashed, and images that they take at a time


class Archive:
    """The n images of a zip, or of a folder and its folders; an image is asked for by its row or by its name.

    Attributes:
        names: paths inside the archive with `/`, sorted.
        left_out: files there that are not read, counted by kind.

    Raises:
        StoreError: no such archive, a broken zip, two images of one name, or no image in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            self._zip = None
            files, left_out = walk(path)
        elif path.is_file():
            self._zip = Zip(path)
            files, left_out = list(self._zip.names), self._zip.left_out.copy()
        else:
            raise StoreError(f"{path}: no such folder or zip of images; run `r2r fetch`, or put it there")
        images = images_among(files, left_out, path)
        self.names = Names(files[number] for number in images)
        self.left_out = {kind: count for kind, count in left_out.items() if count}
        self._member = np.array(images if self._zip else [], np.int32)
        if not images:
            instead = ", ".join(f"{count} x {kind}" for kind, count in self.left_out.items())
            raise StoreError(f"{path}: holds no image (.png, .jpg, ...){f' but {instead}' if instead else ''}")

    def __len__(self) -> int:
        return len(self.names)

    def row(self, name: str) -> int:
        """The row of a name.

        Raises:
            StoreError: there is no such image.
        """
        row = bisect_left(self.names, name)
        if row == len(self) or self.names[row] != name:
            raise StoreError(f"{self.path}: no image {name}")
        return row

    def encoded(self, image: int | str) -> bytes:
        """The bytes of an image file.

        Raises:
            StoreError: no such image, or its bytes are broken.
        """
        row = self.row(image) if isinstance(image, str) else image
        if self._zip:
            return self._zip.read(self._member[row])
        name = f"{self.path}/{self.names[row]}"
        try:
            with open(name, "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise broken(Path(name), error, "cannot be read") from error

    def where(self, image: int | str) -> str:
        """Where it stands, for messages."""
        return f"{self.path}, {image if isinstance(image, str) else self.names[image]}"

    def image(self, image: int | str) -> np.ndarray:
        """A decoded image: [h, w, 3] uint8 RGB."""
        return decode(self.encoded(image), self.where(image))

    @cached_property
    def contents(self) -> np.ndarray:
        """Length and CRC-32 of each image file: [n, 2] int64. Those of a folder are read once (`digests`)."""
        if self._zip:
            return self._zip.contents(self._member)
        stamps = np.fromiter((stamp(f"{self.path}/{name}", name) for name in self.names), np.uint64, len(self))
        return remembered(self.path, stamps, self._look)

    def _look(self, rows: list[int]) -> Iterator[tuple[int, int]]:
        with ThreadPoolExecutor(THREADS) as pool:
            for begin in range(0, len(rows), BLOCK):
                yield from pool.map(lambda row: length_and_crc(self.encoded(row)), rows[begin : begin + BLOCK])

    def digest(self, images: Iterable[int | str] | None = None) -> str:
        """Identity of the content of these images, or of all: their names and bytes."""
        rows = range(len(self)) if images is None else [self.row(i) if isinstance(i, str) else i for i in images]
        digest = hashlib.sha256()
        for row in rows:
            length, crc = self.contents[row].tolist()
            digest.update(os.fsencode(f"{self.names[row]}\0{length}\0{crc}\0"))
        return digest.hexdigest()
