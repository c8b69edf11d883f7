"""Work in processes of one thread each, which end with their parent however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from stages.store import StoreError

A = TypeVar("A")
B = TypeVar("B")


def cores() -> int:
    """How many this process may use: fewer than the machine's in a container or a batch job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(
    work: Callable[[A], B],
    items: Iterable[A],
    workers: int,
    *,
    knob: str,
    start: Callable[[], object] | None = None,
    first: Callable[[], object] | None = None,
) -> Generator[B, None, None]:
    """`map(work, items)` in processes of one thread each, a few items ahead of the consumer.

    Args:
        work: of one item, as all that follows importable from a module: processes are spawned.
        items: drawn from as results are taken.
        workers: processes.
        knob: the parameter that sets their number, for the message when one dies.
        start: done by each process before its first item.
        first: done by the first process before there are others, such as what fills a cache for all.

    Raises:
        StoreError: a process died.
    """
    ahead: deque[Future[B]] = deque()
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (start,)) as pool,
    ):
        try:
            if first is not None:
                pool.submit(first).result()
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 4 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise StoreError(
                f"a process died (killed, or out of memory); lower {knob} and run again: finished files are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(start: Callable[[], object] | None) -> None:
    """End with the parent, however it ends; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if start is not None:
        start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside run BLAS and OpenMP on one thread: they read the environment when they load."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
