"""A stage over shards, written once.

A stage says what its parts are (where each will stand, what it is made from, its items), how an item is worked on and
how a part is written from what came out. `run` finds the parts that the cache holds, makes the others, and links all
into `data/`. Items are worked on in their order by an executor: in this process, in threads or in processes. A killed
run goes on with the first part that was not finished; of two runs that share the cache, each makes what the other does
not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.run.executors import Executor, Start, cores, loop, processes, threads
from stages.store import Entry, StoreError, adding, entries, find, fingerprint, locked, made, remove
from stages.store.cache import Numbers
from stages.store.files import NOTHING

__all__ = ["Executor", "Job", "Part", "by_range", "cores", "loop", "processes", "run", "threads"]


@dataclass(frozen=True)
class Part:
    """What becomes one file or folder.

    path: where it will stand; fingerprint: what it is made from; items: what is worked on one by one; keys: an item's
    own fingerprint each, where its result may be taken out of another part that has it.
    """

    path: Path
    fingerprint: str
    items: Sequence[Any]
    keys: Sequence[str] = ()


@dataclass(frozen=True)
class Job:
    """What a stage does with its parts.

    Attributes:
        stage: its name, of the bar and of the cache's folder.
        folder: which holds its parts and nothing else; none where others see to that.
        parts: in their order.
        start: called once in each process, and only where there is work; gives the function of an item. An executor
            that has places (GPUs) calls it with one.
        write: writes a part to the path that it is given, from the results of its items in order; gives the numbers
            that the stage adds up.
        size: of an item, in `unit`s.
        read: an item's result, out of another finished part that holds the item; for parts with `keys`.
    """

    stage: str
    folder: Path | None
    parts: Sequence[Part]
    start: Start
    write: Callable[[Path, Part, Iterator[Any]], Numbers]
    size: Callable[[Any], int] = lambda item: 1
    read: Callable[[Path, Any], Any] | None = None
    unit: str = " images"


def run(job: Job, executor: Executor = loop) -> list[Entry]:
    """Make or find every part, and put it into its place.

    Returns:
        The parts' entries, in their order.

    Raises:
        StoreError: whatever stops the stage; finished parts are kept.
    """
    if job.folder is not None:
        _clear(job)
    done: dict[str, Entry] = {}
    todo = []
    for part in job.parts:
        if entry := find(job.stage, part.fingerprint):
            done[part.fingerprint] = entry
        else:
            todo.append(part)
    sizes = {part.fingerprint: sum(map(job.size, part.items)) for part in job.parts}
    started = sum(sizes[key] for key in done)
    with tqdm(desc=job.stage, unit=job.unit, total=sum(sizes.values()), initial=started, smoothing=0.05) as bar:
        if todo:
            known = _known(job, todo)
            for part in todo:  # put together out of others, without work
                if part.keys and known.keys() >= set(part.keys):
                    done |= _make(job, [part], known, loop, bar, wait=True)
            done |= _make(
                job, [part for part in todo if part.fingerprint not in done], known, executor, bar, wait=False
            )
            for part in todo:  # another run had these, and is waited for
                if part.fingerprint not in done:
                    done |= _make(job, [part], known, executor, bar, wait=True)
    for part in job.parts:
        done[part.fingerprint].place(part.path)
    return [done[part.fingerprint] for part in job.parts]


def _clear(job: Job) -> None:
    """Take out of the folder what this stage made for other knobs; what it did not make stops it."""
    assert job.folder is not None
    places = {part.path for part in job.parts}
    (job.folder / NOTHING).unlink(missing_ok=True)
    files = [path for path in job.folder.rglob("*") if not path.is_dir() and not path.name.startswith(".")]
    stale = [path for path in files if path not in places and places.isdisjoint(path.parents)]
    proven = made(job.stage, stale)
    if foreign := [path for path in stale if path not in proven]:
        raise StoreError(
            f"{foreign[0]}: not made by {job.stage}, or no longer known to the cache; it would be taken for a part of "
            f"{job.folder}: move it away, or delete the folder"
        )
    for path in stale:
        remove(path, f"{job.stage} made it for other knobs; the cache keeps it")


def by_range(folder: Path, identities: Iterable[int], keys: Mapping[int, str], step: int) -> list[Part]:
    """Shards of identities, cut by ranges of `step` numbers: which others there are does not move an identity.

    Args:
        folder: where the shards will stand.
        identities: their numbers, in any order.
        keys: the fingerprint of each.
        step: numbers that a shard spans.
    """
    parts = []
    for number, group in groupby(sorted(identities), lambda identity: identity // step):
        members = list(group)
        own = [keys[identity] for identity in members]
        parts.append(Part(folder / f"{number:05}.h5", fingerprint(members, own), members, own))
    return parts


def _known(job: Job, todo: Sequence[Part]) -> dict[str, Path]:
    """Key of an item -> a finished part that holds it, its content checked."""
    wanted = {key for part in todo for key in part.keys}
    known: dict[str, Path] = {}
    if wanted and job.read:
        for entry in entries(job.stage):
            held = wanted.intersection(entry.keys) - known.keys()
            if held and (whole := find(job.stage, entry.path.parent.name)):
                known |= dict.fromkeys(held, whole.path)
    return known


def _make(
    job: Job, todo: Sequence[Part], known: dict[str, Path], executor: Executor, bar: tqdm, wait: bool
) -> dict[str, Entry]:
    """Make the parts that no other run is making; with `wait`, wait for it and take what it made."""
    done: dict[str, Entry] = {}
    with ExitStack() as locks:
        claimed: deque[tuple[Part, ExitStack]] = deque()

        def items() -> Iterator[Any]:
            """The items to be worked on, part by part; a part is claimed when its first item is asked for."""
            for part in todo:
                lock = locks.enter_context(ExitStack())
                if not lock.enter_context(locked(job.stage, part.fingerprint, wait)):
                    continue
                if entry := find(job.stage, part.fingerprint):  # made by another run in the meantime
                    done[part.fingerprint] = entry
                    bar.update(sum(map(job.size, part.items)))
                    lock.close()
                    continue
                claimed.append((part, lock))
                yield from (item for item, path in _places(part, known) if path is None)

        with closing(executor(job.start, items())) as made:
            results = _Ahead(made)
            while claimed:
                part, lock = claimed.popleft()
                with adding(job.stage, part.fingerprint, f"content{part.path.suffix}") as draft:
                    draft.keys = part.keys
                    draft.numbers = job.write(draft.path, part, _results(job, part, known, results, bar))
                lock.close()
                done[part.fingerprint] = draft.entry
                results.look()
    return done


def _places(part: Part, known: dict[str, Path]) -> Iterator[tuple[Any, Path | None]]:
    keys = part.keys or [""] * len(part.items)
    return ((item, known.get(key)) for item, key in zip(part.items, keys, strict=True))


def _results(job: Job, part: Part, known: dict[str, Path], made: Iterator[Any], bar: tqdm) -> Iterator[Any]:
    for item, path in _places(part, known):
        if path is None:
            yield next(made)
        else:
            assert job.read is not None
            yield job.read(path, item)
        bar.update(job.size(item))


class _Ahead:
    """An iterator that looks one result ahead, so that the part it belongs to is claimed."""

    def __init__(self, results: Iterator[Any]) -> None:
        self.results = results
        self.held: list[Any] = []
        self.look()

    def look(self) -> None:
        """Have the next result at hand, if there is one."""
        self.held = self.held or list(islice(self.results, 1))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.held.pop() if self.held else next(self.results)
