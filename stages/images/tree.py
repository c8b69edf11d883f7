"""Which files of a folder or a zip are images: one rule for every reader.

Links to files and folders are followed, a folder once, and a link that leads back into its own path is refused. Hidden
and system files and folders (`.ipynb_checkpoints`, `@eaDir`, `__MACOSX`, `._*`, `Thumbs.db`, ...) are left out and
counted. An image is known by its suffix in any case, and no two images may differ by the suffix alone.
"""

from __future__ import annotations

import heapq
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from stages.store import StoreError
from stages.store.files import broken

IMAGE = re.compile(  # what OpenCV decodes to the pixels that were stored (not .pfm, of which it makes black)
    r".+\.(a?png|avif|bmp|dib|gif|hdr|j2k|jfif|jp2|jpe?g|jpe|p[abgnpx]m|pic|ras|sr|tiff?|webp)", re.I | re.S
)
SYSTEM = re.compile(  # of macOS, Windows, Synology, QNAP and ext4
    r"__MACOSX|Icon\r|(eh)?Thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information|@(eaDir|tmp|__thumb)"
    r"|[@#]recycle|#snapshot|lost\+found",
    re.I,
)
HIDDEN, OTHER, AGAIN = "hidden or system", "no image by suffix", "folder linked again"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or the system's."""
    return name.startswith(".") or SYSTEM.fullmatch(name) is not None


def is_image(name: str) -> bool:
    """Whether a file of this name is an image."""
    return IMAGE.fullmatch(name) is not None


def walk(folder: Path) -> tuple[list[str], Counter[str]]:
    """All files under a folder that are not hidden.

    Returns:
        Their paths inside of it, with `/`, sorted; and what was left out, counted by kind.

    Raises:
        StoreError: a link that leads back into its own path or to nothing, or a folder that cannot be read.
    """
    names: list[str] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        here = folders.pop() if folders else heapq.heappop(links)  # what stands here first, then what is linked
        place = folder / here
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in seen:
                left_out[AGAIN] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                for entry in entries:
                    name = here + entry.name
                    if is_hidden(entry.name):
                        left_out[HIDDEN] += _files(entry)
                    elif entry.is_dir():
                        if entry.is_symlink():
                            _refuse_loop(entry, place)
                            heapq.heappush(links, f"{name}/")
                        else:
                            folders.append(f"{name}/")
                    elif entry.is_file():
                        names.append(name)
                    elif entry.is_symlink():
                        raise StoreError(f"{entry.path}: a link to {os.readlink(entry)}, which is not there; mend it")
                    else:
                        left_out[OTHER] += 1
        except OSError as error:
            raise broken(place, error, "cannot be read") from error
    return sorted(names), left_out


def _refuse_loop(link: os.DirEntry[str], place: Path) -> None:
    target = os.path.realpath(link)
    if os.path.commonpath([target, os.path.realpath(place)]) == target:
        raise StoreError(f"{link.path}: a link that leads back to {target}, in which it stands; remove it")


def _files(entry: os.DirEntry[str]) -> int:
    """Number of files of a hidden entry, which is not followed."""
    return sum(len(files) for _, _, files in os.walk(entry)) if entry.is_dir(follow_symlinks=False) else 1


def images_among(names: Sequence[str], left_out: Counter[str], where: Path) -> list[int]:
    """The numbers of the images among the names of a folder's or zip's files, in the order of their names.

    Args:
        names: with `/`.
        left_out: what is no image is added.
        where: the folder or zip, for messages.

    Raises:
        StoreError: two images of one name, or that differ by the suffix alone.
    """
    images = [name for name in enumerate(names) if is_image(name[1])]
    images.sort(key=lambda image: image[1])
    left_out[OTHER] += len(names) - len(images)
    first: dict[str, int] = {}
    for number, name in images:
        twin = first.setdefault(os.path.splitext(name)[0], number)
        if twin != number:
            raise StoreError(f"{where}: {names[twin]} and {name} bear one name; keep one of them")
    return [number for number, _ in images]


class Names:
    """A list of names in one string, at eight bytes beside their own: a list of Python's takes sixty."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        begin, end = self._ends[index : index + 2].tolist()
        return os.fsdecode(self._text[begin:end])

    def __iter__(self) -> Iterator[str]:
        return (os.fsdecode(self._text[begin:end]) for begin, end in pairwise(self._ends.tolist()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names | list) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
