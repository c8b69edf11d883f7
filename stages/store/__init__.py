"""HDF5 shards: written whole, opened read-only, skipped when their fingerprint matches.

A shard is one HDF5 file: named columns of n rows, and optionally n encoded images. The images are one flat byte
array and n + 1 offsets, so that a file of a thousand images is three datasets and its bytes depend on its content only.

Notation: n rows, h x w pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from PIL import Image

PACKAGE = Path(__file__).parent.parent


class StoreError(RuntimeError):
    """A file that is missing, broken or not what its name says; the message names it and what to do."""


def cache_folder() -> Path:
    """Where checkpoints and embeddings outlive a workspace: `$R2R_CACHE`, or `~/.cache/render2real`."""
    return Path(os.environ.get("R2R_CACHE") or Path.home() / ".cache/render2real")


def fingerprint(*parts: Any, code: Sequence[str] = ()) -> str:
    """Identity of a derived file: 64 hex digits over what it was made from.

    Args:
        parts: JSON values, dataclasses or paths (a path counts by its content, never by its name or date).
        code: modules of this package whose source made it (`"align"`, `"world"`), so that an edit makes it stale.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(file_digest(part).encode())
        else:
            value = asdict(part) if is_dataclass(part) and not isinstance(part, type) else part
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    for name in code:
        path = PACKAGE / name
        sources = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        for source in sources:
            digest.update(source.relative_to(PACKAGE).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well and removed when it does not.

    Writing through an output would corrupt DVC's cache, which shares its bytes by hard link; a killed writer would
    leave half a file under the final name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def emptied(folder: Path) -> Path:
    """The folder, made if it is not there, without what an earlier run left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_shard(
    path: Path, columns: Mapping[str, np.ndarray], images: Sequence[bytes] | None = None, *, fingerprint: str
) -> None:
    """Write a shard and move it into place.

    Args:
        path: where the shard will stand.
        columns: name -> array whose first axis has n rows.
        images: n encoded images (PNG, JPEG or WebP), or none.
        fingerprint: what it was made from (`fingerprint`).

    Raises:
        ValueError: the columns and images have different numbers of rows.
    """
    rows = {name: len(column) for name, column in columns.items()}
    if images is not None:
        rows["images"] = len(images)
    if len(set(rows.values())) != 1:
        raise ValueError(f"{path}: columns of different lengths: {rows}")
    with replacing(path) as partial, h5py.File(partial, "w", track_order=False, libver="latest") as file:
        file.attrs["fingerprint"] = fingerprint
        for name, column in columns.items():
            file.create_dataset(name, data=column, track_times=False)
        if images is not None:
            offsets = np.cumsum([0, *map(len, images)], dtype=np.int64)
            file.create_dataset("images", data=np.frombuffer(b"".join(images), np.uint8), track_times=False)
            file.create_dataset("offsets", data=offsets, track_times=False)


def is_current(path: Path, fingerprint: str) -> bool:
    """Whether a whole shard with this fingerprint stands at `path`; a broken or foreign file is not current."""
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("fingerprint") == fingerprint
    except OSError:
        return False


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
            raise StoreError(f"{path}: not a readable shard ({error}); delete it and run the stage again") from error
        self.fingerprint = str(self.file.attrs.get("fingerprint", ""))
        self.offsets: np.ndarray | None = self.file["offsets"][:] if "offsets" in self.file else None
        self._images = self.file.get("images")  # looking it up costs ten times what reading an image does
        self.names = [name for name in self.file if name not in ("images", "offsets")]

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.offsets is not None else len(self.file[self.names[0]])

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole column."""
        if name not in self.names:
            raise StoreError(f"{self.path}: no column {name!r}; it has {', '.join(self.names)}")
        return self.file[name][:]

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


def encode(image: np.ndarray, codec: str = "png", quality: int = 95) -> bytes:
    """Encode [h, w, 3] uint8 RGB as `png`, `jpeg` or `webp` (`quality` 1 to 100 for the lossy two)."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"compress_level": 3} if codec == "png" else {"quality": quality}
    Image.fromarray(image).save(buffer, codec.upper(), **options)
    return buffer.getvalue()


def decode(encoded: bytes, name: str = "image") -> np.ndarray:
    """Decode an image to [h, w, 3] uint8 RGB; the pixels are Pillow's, in half its time for a JPEG.

    Raises:
        StoreError: the bytes are no image, or not all of one; the message says which (`name`).
    """
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB) if encoded else None
    if image is None:
        raise StoreError(f"{name}: does not decode as an image; fetch it again")
    return image
