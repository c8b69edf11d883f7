"""A zip or folder of images, a folder an identity: CASIA-WebFace, DCFace, Digi2Real and most others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from stages.fetch.images import ImageArchive
from stages.store import StoreError


class Archive:
    """The images of a zip or folder; see `TrainingSet`. Identities and samples are ranks in the order of names.

    The fingerprint of a zip is over its table of contents, with checksums; that of a folder over names and sizes.

    Raises:
        StoreError: no such archive, a broken zip, or an image that lies in no identity's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.archive = ImageArchive(path)
        folders = [name.rpartition("/")[0] for name in self.archive.names]
        if "" in folders:
            name = self.archive.names[folders.index("")]
            raise StoreError(f"{path}: {name} lies in no identity's folder; <identity>/<image> was expected")
        rank = {folder: number for number, folder in enumerate(sorted(set(folders)))}
        self.identity = np.array([rank[folder] for folder in folders], np.int64)
        order = np.argsort(self.identity, kind="stable")
        first = np.searchsorted(self.identity[order], np.arange(len(rank)))
        self.sample = np.empty(len(order), np.int64)
        self.sample[order] = np.arange(len(order)) - first[self.identity[order]]
        self.fingerprints = [self._digest() if path.is_dir() else self.archive.digest()]

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name in self.archive.names:
            digest.update(f"{name}\0{(self.path / name).stat().st_size}\0".encode())
        return digest.hexdigest()

    def encoded(self, row: int) -> bytes:
        """The image file of a row."""
        return self.archive.encoded(self.archive.names[row])

    def where(self, row: int) -> str:
        """Archive and name."""
        return f"{self.path}, {self.archive.names[row]}"
