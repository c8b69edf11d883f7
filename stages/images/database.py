"""LMDB as HSFace (Vec2Face) is distributed: MessagePack of (image file, label) under the keys listed in `__keys__`.

Source: HaiyuWu/SOTA-Face-Recognition-Train-and-Test, `utils/imagelist2lmdb.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import lmdb
import msgpack
import numpy as np

from stages.images.digests import length_and_crc, remembered, stamps
from stages.images.faces import Faces
from stages.images.tree import Names
from stages.store import StoreError

one_at_a_time = Lock()  # a process may not have a database open twice
os.register_at_fork(after_in_child=lambda: globals().update(one_at_a_time=Lock()))


class Database(Faces):
    """The images of an LMDB, by its file. Identity is the label, sample the place in the list of keys.

    The labels stand behind the images, so that it is read through once (`digests`). It is opened for each read, since
    it must not be open over a fork.

    Raises:
        StoreError: no such database, or one of another layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._transaction() as transaction:
            keys = self._get(transaction, "__keys__")
        if not (isinstance(keys, list) and keys and all(isinstance(key, bytes) for key in keys)):
            raise StoreError(f"{path}: its __keys__ are no list of keys; HSFace's layout was expected")
        self._keys = Names(map(os.fsdecode, keys))
        labels, *contents = remembered(path, stamps(path, np.arange(len(keys))), self._look, 3).T
        self._contents = np.stack(contents, axis=1)
        super().__init__(path, labels, np.arange(len(keys)))

    @contextmanager
    def _transaction(self) -> Iterator[lmdb.Transaction]:
        try:
            with (
                one_at_a_time,
                lmdb.open(str(self.path), subdir=False, readonly=True, lock=False, readahead=False) as environment,
                environment.begin(buffers=True) as transaction,
            ):
                yield transaction
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: truncated or no LMDB ({error}); fetch it again") from error

    def _get(self, transaction: lmdb.Transaction, key: str) -> Any:
        value = transaction.get(os.fsencode(key))
        try:
            return None if value is None else msgpack.unpackb(value)
        except (ValueError, msgpack.UnpackException) as error:
            raise StoreError(f"{self.path}, key {key}: broken ({error}); fetch it again") from error

    def _pair(self, transaction: lmdb.Transaction, place: int) -> tuple[bytes, int]:
        match self._get(transaction, self._keys[place]):
            case [bytes(image), int(label)] if image and 0 <= label < 2**31:
                return image, label
        raise StoreError(f"{self._where(place)}: no pair of image and label; HSFace's layout was expected")

    def _look(self, places: list[int]) -> Iterator[tuple[int, ...]]:
        with self._transaction() as transaction:
            for place in places:
                image, label = self._pair(transaction, place)
                yield label, *length_and_crc(image)

    def _encoded(self, place: int) -> bytes:
        with self._transaction() as transaction:
            return self._pair(transaction, place)[0]

    def _where(self, place: int) -> str:
        return f"{self.path}, key {self._keys[place]}"

    def _digests(self, places: np.ndarray) -> np.ndarray:
        return self._contents[places]
