"""Files that are whole or not there, and errors that say what is the case."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK = 1 << 20  # bytes
NOTHING = "nothing.txt"
SYSTEM = {  # not the file's fault: what to do
    errno.EMFILE: "too many open files: raise the limit (`ulimit -n 4096`)",
    errno.ENFILE: "too many open files on this machine",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "a read-only file system",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}


class StoreError(RuntimeError):
    """A file that is missing, broken or not what its name says; the message names it and what to do."""


def broken(path: Path, error: Exception, remedy: str) -> StoreError:
    """The error of a file that cannot be read or written: the system's fault by its name, else `remedy`."""
    known = SYSTEM.get(getattr(error, "errno", None) or 0)
    return StoreError(f"{path}: {known} ({error})" if known else f"{path}: {remedy} ({error})")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file where the system, and not the file, is at fault: a full disk, a lacking permission."""
    try:
        yield
    except OSError as error:
        if error.errno in SYSTEM:
            raise broken(path, error, "") from error
        raise


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, read in blocks; of a folder over the names and contents of its files."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{file_digest(file)}\0".encode())
        return digest.hexdigest()
    with path.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well and removed when it does not.

    Writing through an output would corrupt the caches, which share its bytes by hard link; a killed writer would
    leave half a file under the final name.

    Raises:
        StoreError: the disk is full, or another fault of the system.
    """
    with writing(path):
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
    """The folder, made if it is not there, without what an earlier run left in it, which is said."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != NOTHING]
    if files:
        print(f"emptied {folder}: {len(files)} files of an earlier run, {files[0].name} among them", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def nothing(folder: Path, reason: str) -> None:
    """Leave a folder without content, but for a line that says why: DVC warns of empty ones at every command."""
    (emptied(folder) / NOTHING).write_text(reason + "\n")


def remove(path: Path, reason: str) -> None:
    """Remove a file or folder, and say so: nothing of a user's disk goes in silence."""
    print(f"removed {path}: {reason}", file=sys.stderr)
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a mapping, such as a stage's metrics: indent 2, moved into place."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n")


def link(source: Path, path: Path) -> None:
    """Put the file or folder `source` at `path` too: hard links where the disk allows, else copies."""
    if source.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        for file in source.rglob("*"):
            if file.is_file():
                link(file, path / file.relative_to(source))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.samefile(source):
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(path)
