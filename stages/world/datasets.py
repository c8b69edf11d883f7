"""Files and folders of portraits: rendered in processes, kept in the cache, put where they belong.

A dataset is a part of a job (`stages.run`): its items are portraits, and a writer puts their pictures into one of the
field's official formats. The portraits of all unfinished datasets are drawn in one stream, so that no core waits at the
end of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from stages.run import Executor, Job, Part, cores, processes, run
from stages.store import Entry, file_digest, fingerprint
from stages.store.cache import Numbers
from stages.world.portraits import Picture, Portrait, photograph, warm

Writer = Callable[[Path, Iterator[list[Picture]]], None]  # to a path that is not there; one list a portrait

ASSETS = Path(__file__).parent / "assets.npz"
PORTRAITS = (  # the code that changes a picture
    *(f"world/{name}" for name in ("assets", "film", "hair", "head", "kernels", "portraits", "renderer", "scene")),
    *("world/skin", "world/traits", "store/codec"),
)
FACES = ("align/mtcnn", "align/warp")  # and, where a face is looked for in it


@dataclass(frozen=True)
class Dataset(Part):
    """A file or folder of portraits, and how their pictures are written."""

    writer: Writer = field(kw_only=True)

    @property
    def images(self) -> int:
        """Number of pictures."""
        return sum(portrait.images for portrait in self.items)


def dataset(path: Path, portraits: Sequence[Portrait], writer: Writer, *made_from: Any, code: Sequence[str]) -> Dataset:
    """A dataset with its fingerprint: over what it is made from, the assets, and the code of pictures and writer."""
    code = (*PORTRAITS, *(FACES if any(portrait.crop != "none" for portrait in portraits) else ()), *code)
    return Dataset(path, fingerprint(_assets(), *made_from, code=code), portraits, writer=writer)


@cache
def _assets() -> str:
    return file_digest(ASSETS)


def make(datasets: Sequence[Dataset], workers: int = 0, stage: str = "fetch") -> list[Entry]:
    """Find the datasets in the cache or render them; put them into their places.

    Args:
        datasets: in their order.
        workers: processes; 0 is one a core.
        stage: whose entries of the cache they are.

    Returns:
        Of each its entry, with the numbers `images` and `discarded`, those in which no face was found.

    Raises:
        StoreError: a process died, a person has no face, or the disk is full; finished datasets are kept.
    """
    if not datasets:
        return []
    job = Job(stage, None, datasets, partial(_with, photograph), _write, size=lambda portrait: portrait.images)
    return run(job, executor(workers))


def executor(workers: int) -> Executor:
    """Processes, one a core by default, with kernels that the first compiles for all."""
    return processes(workers or cores(), "fetch.workers", first=warm)


def _with(work: Callable[[Portrait], list[Picture]]) -> Callable[[Portrait], list[Picture]]:
    return work


def _write(path: Path, part: Part, results: Iterator[list[Picture]]) -> Numbers:
    assert isinstance(part, Dataset)
    numbers = {"images": 0, "discarded": 0}

    def counted() -> Iterator[list[Picture]]:
        for pictures in results:
            numbers["images"] += len(pictures)
            numbers["discarded"] += sum(picture.discarded for picture in pictures)
            yield pictures

    part.writer(path, counted())
    return dict(numbers)
