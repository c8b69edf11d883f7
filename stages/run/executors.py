"""How items are worked on: in this process, in threads, or in processes. None changes a result.

An executor takes `start`, which gives the function of an item, and the items; it yields the results in the items'
order, and draws a few items ahead of what is taken.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from stages.store import StoreError

Start = Callable[..., Callable[[Any], Any]]  # () or (place) -> the function of an item
Executor = Callable[[Start, Iterable[Any]], Generator[Any, None, None]]
AHEAD = 4  # items a worker


def cores() -> int:
    """How many this process may use: fewer than the machine's in a container or a batch job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def loop(start: Start, items: Iterable[Any]) -> Generator[Any, None, None]:
    """One item after the other, in this process."""
    work = None
    for item in items:
        work = work or start()
        yield work(item)


def threads(count: int) -> Executor:
    """In threads of this process, each with one thread of torch: how it shares an operation out shows in last bits."""

    def execute(start: Start, items: Iterable[Any]) -> Generator[Any, None, None]:
        ahead: deque[Future[Any]] = deque()
        work = None
        with ThreadPoolExecutor(count, initializer=_one_torch_thread) as pool:
            try:
                for item in items:
                    work = work or start()
                    ahead.append(pool.submit(work, item))
                    if len(ahead) > AHEAD * count:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    return execute


def processes(
    count: int, knob: str, places: Sequence[Any] | None = None, first: Callable[[], object] | None = None
) -> Executor:
    """In processes of one thread each, which end with their parent however it ends.

    Args:
        count: of processes; `start` and the items are sent to them, so all is importable from a module.
        knob: the parameter that sets their number, for the message when one dies.
        places: what `start` is called with, one a process, such as its GPU; default is nothing.
        first: done by the first process before there are others, such as what fills a cache for all.
    """

    def execute(start: Start, items: Iterable[Any]) -> Generator[Any, None, None]:
        ahead: deque[Future[Any]] = deque()
        context = multiprocessing.get_context("spawn")
        free = context.SimpleQueue()
        for place in places or ():
            free.put((place,))
        begin = (start, free if places else None)
        with _one_thread_each(), ProcessPoolExecutor(count, context, _begin, begin) as pool:
            try:
                if first is not None:
                    pool.submit(first).result()
                for item in items:
                    ahead.append(pool.submit(_work_on, item))
                    if len(ahead) > AHEAD * count:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            except BrokenProcessPool as error:
                raise StoreError(
                    f"a process died (killed, or out of memory); lower {knob} and run again: finished files are kept"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)

    return execute


_start: Callable[[], Callable[[Any], Any]] | None = None
_work: Callable[[Any], Any] | None = None


def _begin(start: Start, places: Any) -> None:
    """End with the parent, however it ends; leave Ctrl-C to it."""
    global _start
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _start = partial(start, *(places.get() if places else ()))


def _work_on(item: Any) -> Any:
    """Start with the first item: an error in the start is this item's, and is raised as what it is."""
    global _work
    if _work is None:
        assert _start is not None
        _work = _start()
    return _work(item)


def _one_torch_thread() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


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
