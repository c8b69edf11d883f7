"""What stands in `data/`: links to what the library and the cache keep, and nothing else.

Only such a link is ever removed, so that nothing is lost, and that is printed. What stands in the way with another
content is put aside into the cache, and what does not belong stops the stage before anything is written.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
import time
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from stages.store import StoreError, cache_folder, entries, remove
from stages.store.files import writing
from stages.store.manifest import links_of

ASIDE = "aside"  # folder of the cache
FOLDERS = ("source", "target", "benchmarks", "weights")  # of data/, that a run fills


def link_to(source: Path, path: Path) -> None:
    """Put a file or folder at `path` too: a file by hard link, so that DVC keeps no second copy; else by name."""
    source = source.resolve()
    if path.exists() and path.samefile(source):
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(source, path)
        except OSError:  # a folder, or another disk
            path.symlink_to(source)


def put(source: Path, path: Path) -> None:
    """Link `source` to `path`; a file or folder with another content that stands there is put aside."""
    same = path.is_file() and source.is_file() and filecmp.cmp(path, source, shallow=False)
    if path.exists() and not path.is_symlink() and not same:
        put_aside(path)
    link_to(source, path)


def put_aside(path: Path, reason: str = "not what fetch would put there") -> None:
    """Move what stands in the way into the cache, and say so."""
    aside = cache_folder() / ASIDE / str(time.time_ns()) / path.name
    aside.parent.mkdir(parents=True)
    shutil.move(path, aside)
    print(f"{path}: {reason}; put aside as {aside}", file=sys.stderr)


def visible(place: Path) -> Iterator[Path]:
    """A file, or the files and links below a folder; hidden ones are left out, and no link is followed."""
    if not place.is_dir() or place.is_symlink():
        yield from [place] if place.exists() else []
        return
    for parent, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (Path(parent, name) for name in sorted([*links, *files]) if not name.startswith("."))


def members(path: Path) -> dict[str, Path]:
    """What a set that a knob names by its path is linked as: a folder as a whole, a `.rec` with its `.idx`."""
    if path.is_dir():
        return {"set": path}
    return {file.name: file for file in ([path, path.with_suffix(".idx")] if path.suffix == ".rec" else [path])}


class Standing:
    """What stands in the folders of `data/`, against what is wanted there.

    Args:
        data: the folder.
        library: what was got from outside.
        wanted: place of a file or folder -> what it is to be a link of, or none that is there yet.
    """

    def __init__(self, data: Path, library: Path, wanted: Mapping[Path, Path | None]) -> None:
        self.data, self.library, self.wanted = data, library, wanted
        self.paths = [path for name in FOLDERS for path in visible(data / name)]

    def check(self) -> None:
        """Stop where something stands there that does not belong.

        Raises:
            StoreError: with its path.
        """
        own = self._own()
        for path in self.paths:
            if path not in own and not _within(path, self.wanted):
                raise StoreError(
                    f"{path}: not made or got by fetch, or no longer known to its cache, and it would be taken for a "
                    "part of the data; move it away (docs/data.md: how a set of yours is read in place)"
                )

    def clear(self) -> None:
        """Remove what other knobs put there, and put aside what stands in the way of what is wanted."""
        own = self._own()
        for path in self.paths:
            place = _within(path, self.wanted)
            if place is None:
                remove(path, "fetch put it there for other knobs; the cache keeps it")
            elif path not in own and not _same(path, place, self.wanted[place]):
                put_aside(path)
        for name in FOLDERS:
            for parent, _, _ in os.walk(self.data / name, topdown=False):
                if not os.listdir(parent):
                    os.rmdir(parent)

    def _own(self) -> set[Path]:
        """The paths that are links of what is kept elsewhere: removing them loses nothing."""
        kept = [file for place in (self.library, cache_folder() / ASIDE) for file in visible(place)]
        kept += [file for entry in entries("fetch") for file in visible(entry.path)]
        kept += [path for name in FOLDERS for path in links_of(self.data / name).values()]
        known = {_inode(path) for path in kept if path.exists()}
        return {path for path in self.paths if not path.exists() or _inode(path) in known}


def _same(path: Path, place: Path, source: Path | None) -> bool:
    """Whether a file has the content that it is to have; as a copy, if the cache is on another disk."""
    content = source / path.relative_to(place) if source and path != place else source
    return bool(content and content.is_file() and path.is_file() and filecmp.cmp(path, content, shallow=False))


def _inode(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _within(path: Path, places: Container[Path]) -> Path | None:
    return next((place for place in (path, *path.parents) if place in places), None)
