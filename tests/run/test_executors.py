import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from stages.run import cores, loop, processes, threads
from stages.store import StoreError


def square(x: int) -> int:
    return x * x


def note(folder: Path, name: str) -> None:
    (folder / f"{name} {os.getpid()} {time.monotonic_ns()}").touch()


def refuse(x: int) -> int:
    raise ValueError(f"not {x}")


def die(x: int) -> int:
    os._exit(9)


def moments(folder: Path, name: str) -> list[int]:
    return sorted(int(path.name.split()[2]) for path in folder.glob(f"{name} *"))


def squares() -> Callable[[int], int]:
    return square


def noting(folder: Path) -> Callable[[int], int]:
    note(folder, "start")
    return square


def placed(place: str) -> Callable[[int], str]:
    def where(x: int) -> str:
        time.sleep(0.05)
        return place

    return where


def refusing() -> Callable[[int], int]:
    return refuse


def dying() -> Callable[[int], int]:
    return die


def not_starting() -> Callable[[int], int]:
    raise ValueError("the weights are broken")


EXECUTORS = [loop, threads(2), processes(2, "x")]


@pytest.mark.parametrize("execute", EXECUTORS)
def test_results_come_in_the_order_of_the_items(execute):
    assert list(execute(squares, range(30))) == [x * x for x in range(30)]


@pytest.mark.parametrize("execute", EXECUTORS)
def test_an_error_of_the_work_is_raised_as_it_is(execute):
    with pytest.raises(ValueError, match="not 3"):
        list(execute(refusing, [3]))


@pytest.mark.parametrize("execute", EXECUTORS)
def test_an_error_of_the_start_is_raised_as_it_is(execute):
    with pytest.raises(ValueError, match="the weights are broken"):
        list(execute(not_starting, [3]))


@pytest.mark.parametrize("execute", [loop, threads(2)])
def test_without_items_nothing_starts(execute):
    assert list(execute(not_starting, [])) == []


def test_the_first_process_is_alone_until_it_has_done_what_is_first(tmp_path):
    execute = processes(2, "x", first=partial(note, tmp_path, "first"))
    assert list(execute(partial(noting, tmp_path), range(30))) == [x * x for x in range(30)]
    starts, firsts = moments(tmp_path, "start"), moments(tmp_path, "first")
    assert len(firsts) == 1
    assert firsts[0] < min(starts)


def test_each_process_has_its_place():
    assert set(processes(2, "x", ["cuda:0", "cuda:1"])(placed, range(12))) == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize(("execute", "workers"), [(threads(2), 2), (processes(1, "x"), 1)])
def test_items_are_drawn_a_few_ahead(execute, workers):
    drawn = []
    results = execute(squares, (drawn.append(x) or x for x in range(100)))
    assert next(results) == 0
    assert len(drawn) == 4 * workers + 1
    results.close()
    assert len(drawn) == 4 * workers + 1


def test_a_dead_process_names_the_knob():
    with pytest.raises(StoreError, match=r"process died.*lower synthesize\.workers"):
        list(processes(1, "synthesize.workers")(dying, [3]))


def test_cores_are_those_this_process_may_use(monkeypatch):
    assert 1 <= cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS has none
    assert cores() == os.cpu_count()
