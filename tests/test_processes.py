import os
import time
from functools import partial
from pathlib import Path

import pytest

from stages.processes import cores, in_processes
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


def test_results_come_in_the_order_of_the_items(tmp_path):
    options = {"start": partial(note, tmp_path, "start"), "first": partial(note, tmp_path, "first")}
    assert list(in_processes(square, range(30), 2, knob="x", **options)) == [x * x for x in range(30)]
    starts, firsts = moments(tmp_path, "start"), moments(tmp_path, "first")
    assert (len(starts), len(firsts)) == (2, 1)
    assert starts[0] < firsts[0] < starts[1]


def test_items_are_drawn_a_few_ahead():
    drawn = []
    results = in_processes(square, (drawn.append(x) or x for x in range(100)), 1, knob="x")
    assert next(results) == 0
    assert len(drawn) == 5
    results.close()
    assert len(drawn) == 5


def test_an_error_of_the_work_is_raised_as_it_is():
    with pytest.raises(ValueError, match="not 3"):
        list(in_processes(refuse, [3], 1, knob="x"))


def test_a_dead_process_names_the_knob():
    with pytest.raises(StoreError, match=r"process died.*lower synthesize\.workers"):
        list(in_processes(die, [3], 1, knob="synthesize.workers"))


def test_cores_are_those_this_process_may_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)
