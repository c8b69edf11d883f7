"""What was made once is kept by what it was made from: finished files and checkpoints, outside of DVC's reach.

DVC deletes a stage's outputs before it runs, and throws whole checkouts away. So a stage makes its files in the cache,
`<stage>/<fingerprint>/`, and hard-links them into `data/`. Beside the content, `entry.json` says its SHA-256, which is
checked whenever it is used again, the numbers that its stage adds up, and the keys of its items.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stages.store.files import StoreError, file_digest, link, write_json, writing

Numbers = dict[str, float]
GOT = "library"  # the folder of what was got from outside, some of it by hand: it is never pruned


def cache_folder() -> Path:
    """`$R2R_CACHE`; by default `.r2r` in the project, so that it is on the same disk as `data/`.

    A queued experiment runs in a checkout of its own, and DVC names the project's in `DVC_ROOT`.
    """
    if named := os.environ.get("R2R_CACHE"):
        return Path(named).expanduser().absolute()
    here = Path(os.environ.get("DVC_ROOT") or Path.cwd())
    project = next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), None)
    return (project / ".r2r") if project else Path.home() / ".cache/render2real"


def usable_cache() -> Path:
    """The cache folder, made and tried.

    Raises:
        StoreError: it cannot be written; said before the work and not after it.
    """
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        name = os.environ.get("R2R_CACHE") or "the cache folder"
        raise StoreError(f"{name} cannot be written ({error}); set R2R_CACHE to a folder of your own") from error
    return folder


@dataclass(frozen=True)
class Entry:
    """A finished file or folder in the cache.

    path: its content; digest: SHA-256; numbers: what its stage adds up; keys: of its items, in order.
    """

    path: Path
    digest: str
    numbers: Numbers = field(default_factory=dict)
    keys: Sequence[str] = ()

    @property
    def bytes(self) -> int:
        """Size of the content."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())

    def place(self, path: Path) -> None:
        """Stand at `path` too, by hard link."""
        link(self.path, path)


@dataclass
class Draft:
    """What becomes an entry: its content is written to `path`, and `entry` is there when `adding` has ended."""

    path: Path
    numbers: Numbers = field(default_factory=dict)
    keys: Sequence[str] = ()
    entry: Entry = field(init=False)


def folder_of(stage: str, key: str) -> Path:
    """Where an entry or a checkpoint with this fingerprint stands."""
    return cache_folder() / stage / key


def find(stage: str, key: str) -> Entry | None:
    """The entry with this fingerprint, its content checked; one that has changed is put aside, and that is said."""
    folder = folder_of(stage, key)
    entry = read_entry(folder)
    if entry is None:
        return None
    if entry.path.exists() and file_digest(entry.path) == entry.digest:
        os.utime(folder)  # used now: the last that `prune` takes
        return entry
    aside = folder.with_name(f"{folder.name}.bad-{time.time_ns()}")
    print(f"{entry.path}: its content has changed since it was made; put aside as {aside.name}", file=sys.stderr)
    folder.rename(aside)
    return None


def read_entry(folder: Path) -> Entry | None:
    """The entry in a folder of the cache, unchecked; none where there is no whole one."""
    try:
        values = json.loads((folder / "entry.json").read_text())
        return Entry(folder / values["name"], values["digest"], values["numbers"], values["keys"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def entries(stage: str) -> Iterator[Entry]:
    """All entries of a stage, unchecked, the newest first."""
    folder = cache_folder() / stage
    found = [path for path in folder.glob("*") if len(path.name) == 64 and path.is_dir()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if entry := read_entry(path):
            yield entry


@contextmanager
def adding(stage: str, key: str, name: str) -> Iterator[Draft]:
    """Write an entry's content to the draft's path; it becomes an entry when the block ends well. Hold its lock.

    Args:
        stage: whose it is.
        key: its fingerprint.
        name: of the content, for its suffix.
    """
    folder = folder_of(stage, key)
    partial = folder.with_name(f"{folder.name}.partial")
    with writing(folder):
        try:
            shutil.rmtree(partial, ignore_errors=True)  # of a killed run: the lock is ours
            partial.mkdir(parents=True)
            draft = Draft(partial / name)
            yield draft
            entry = Entry(folder / name, file_digest(draft.path), dict(draft.numbers), list(draft.keys))
            values = {"name": name, "digest": entry.digest, "numbers": entry.numbers, "keys": entry.keys}
            write_json(partial / "entry.json", values)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
            draft.entry = entry
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(stage: str, key: str, wait: bool = True) -> Iterator[bool]:
    """Be the only one, of all workspaces that share the cache, who makes what this fingerprint stands for.

    Yields:
        Whether the lock is held; False only where another holds it and `wait` is off.
    """
    path = folder_of(stage, key).with_name(f"{key}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            print(f"{stage}: another run makes the same; waiting for it ({path})", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True


def made(stage: str, paths: Iterable[Path]) -> set[Path]:
    """Which of the paths are hard links of this stage's entries: proof that this project made them."""
    asked = {path: _inodes(path) for path in paths}
    known = set().union(*(_inodes(entry.path) for entry in entries(stage))) if asked else set()
    return {path for path, inodes in asked.items() if inodes and inodes <= known}


def _inodes(path: Path) -> set[tuple[int, int]]:
    if path.is_symlink() or not path.exists():
        return set()
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {(stat.st_dev, stat.st_ino) for stat in (file.stat() for file in files)}


def listing(prune: float | None = None) -> Iterator[str]:
    """A line a stage: how many entries and checkpoints the cache holds, and their size.

    Args:
        prune: days; what was not used for so long is removed first. What another run makes right now is left, and
            so is what was got from outside.
    """
    root = cache_folder()
    for stage in sorted(path for path in root.glob("*") if path.is_dir()):
        folders = [path for path in stage.iterdir() if path.is_dir()]
        before = -1.0 if prune is None or stage.name == GOT else time.time() - prune * 86400
        old = [path for path in folders if path.stat().st_mtime < before]
        removed = 0
        for path in old:
            with locked(stage.name, path.name.split(".")[0], wait=False) as ours:
                if ours:
                    shutil.rmtree(path)
                    removed += 1
        files = [file for file in stage.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        yield f"{stage.name}: {len(folders) - removed} kept, {size / 1e6:,.1f} MB" + (
            f", {removed} removed" if old else ""
        )
    yield f"in {root}"
