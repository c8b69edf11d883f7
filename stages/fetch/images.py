"""An archive of images without identity labels: a zip or a folder, read in place."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stages.fetch.zips import Zip
from stages.store import StoreError, file_digest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ImageArchive:
    """The images of a zip or of a folder and its folders.

    Attributes:
        names: paths inside the archive with `/`, sorted.
        others: number of files there that are no images by their suffix.

    Raises:
        StoreError: no such archive, a broken zip, or no image in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            self._zip = None
            files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            self._zip = Zip(path)
            files = self._zip.names
        else:
            raise StoreError(f"{path}: no such folder or zip of images; run `r2r fetch`, or put it there")
        self._row = {name: row for row, name in enumerate(files) if name.lower().endswith(SUFFIXES)}
        self.names = sorted(self._row)
        self.others = len(files) - len(self.names)
        if not self.names:
            raise StoreError(f"{path}: holds no image ({', '.join(SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, name: str) -> bytes:
        """The bytes of one image file.

        Raises:
            StoreError: no such image, or its bytes are broken.
        """
        if name not in self._row:
            raise StoreError(f"{self.path}: no image {name}")
        return self._zip.read(self._row[name]) if self._zip else (self.path / name).read_bytes()

    def digest(self) -> str:
        """Identity of the content: of a zip `Zip.digest`, of a folder a hash over names and bytes."""
        if self._zip:
            return self._zip.digest()
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}\0{file_digest(self.path / name)}\0".encode())
        return digest.hexdigest()
