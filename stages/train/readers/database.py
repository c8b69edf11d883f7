"""LMDB as HSFace (Vec2Face) is distributed: MessagePack of (image file, label) under the keys listed in `__keys__`.

Source: HaiyuWu/SOTA-Face-Recognition-Train-and-Test, `utils/imagelist2lmdb.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np

from stages.store import StoreError


class Database:
    """The images of an LMDB; see `TrainingSet`. The labels stand behind the images, so opening reads it through once.

    The database is opened for each read, since it must be open neither twice in a process nor over a fork. The
    fingerprint is over keys, labels and sizes.

    Raises:
        StoreError: no such database, or one of another layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        digest = hashlib.sha256()
        labels = []
        with self._transaction() as transaction:
            self._keys = self._get(transaction, b"__keys__")
            if not (isinstance(self._keys, list) and self._keys and all(isinstance(key, bytes) for key in self._keys)):
                raise StoreError(f"{path}: its __keys__ are no list of keys; HSFace's layout was expected")
            for row, key in enumerate(self._keys):
                image, label = self._pair(transaction, row)
                labels.append(label)
                digest.update(b"%s\0%d\0%d\0" % (key, label, len(image)))
        self.identity = np.array(labels, np.int64)
        self.sample = np.arange(len(labels))
        self.fingerprints = [digest.hexdigest()]

    @contextmanager
    def _transaction(self) -> Iterator[lmdb.Transaction]:
        place = str(self.path)
        try:
            with (
                lmdb.open(place, subdir=self.path.is_dir(), readonly=True, lock=False, readahead=False) as environment,
                environment.begin(buffers=True) as transaction,
            ):
                yield transaction
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: truncated or no LMDB ({error}); fetch it again") from error

    def _get(self, transaction: lmdb.Transaction, key: bytes) -> Any:
        value = transaction.get(key)
        try:
            return None if value is None else msgpack.unpackb(value)
        except (ValueError, msgpack.UnpackException) as error:
            raise StoreError(f"{self.path}, key {key.decode(errors='replace')}: broken ({error})") from error

    def _pair(self, transaction: lmdb.Transaction, row: int) -> tuple[bytes, int]:
        match self._get(transaction, self._keys[row]):
            case [bytes(image), int(label)] if image and 0 <= label < 2**31:
                return image, label
        raise StoreError(f"{self.where(row)}: no pair of image and label; HSFace's layout was expected")

    def encoded(self, row: int) -> bytes:
        """The image file of a row."""
        with self._transaction() as transaction:
            return self._pair(transaction, row)[0]

    def where(self, row: int) -> str:
        """Database and key."""
        return f"{self.path}, key {self._keys[row].decode(errors='replace')}"
