import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.run import Job, Part, _Ahead, by_range, loop, processes, run, threads
from stages.store import StoreError, adding, find, fingerprint, locked


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))


def square(x: int) -> int:
    return x * x


def squares():
    return square


def write(path: Path, part: Part, results: Iterator[int]) -> dict[str, float]:
    values = dict(zip(map(str, part.items), results, strict=True))
    path.write_text(json.dumps(values))
    return {"items": len(values), "sum": sum(values.values())}


def read(path: Path, item: int) -> int:
    return json.loads(path.read_text())[str(item)]


class Counted:
    """A start that counts the items that were worked on."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def __call__(self):
        return lambda x: self.items.append(x) or square(x)


def job(folder: Path, numbers, step: int = 4, **options) -> Job:
    keys = {x: fingerprint(x) for x in numbers}
    return Job("toy", folder, by_range(folder, numbers, keys, step), options.pop("start", squares), write, **options)


def contents(folder: Path) -> dict[str, dict[str, int]]:
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.h5"))}


@pytest.mark.parametrize("executor", [loop, threads(2), processes(2, "x")])
def test_parts_are_made_written_and_added_up(tmp_path, executor):
    done = run(job(tmp_path / "data", range(10)), executor)
    assert [sorted(map(int, part)) for part in contents(tmp_path / "data").values()] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    assert all(value == int(x) ** 2 for part in contents(tmp_path / "data").values() for x, value in part.items())
    assert [part.numbers for part in done] == [
        {"items": 4, "sum": 14},
        {"items": 4, "sum": 126},
        {"items": 2, "sum": 145},
    ]


def test_what_is_there_is_not_made_again(tmp_path):
    first, second = Counted(), Counted()
    run(job(tmp_path / "data", range(10), start=first))
    run(job(tmp_path / "elsewhere", range(12), start=second))
    assert first.items == [*range(10)]
    assert second.items == [8, 9, 10, 11]  # the part that grew
    assert contents(tmp_path / "elsewhere")["00000.h5"] == contents(tmp_path / "data")["00000.h5"]


def test_items_are_taken_out_of_other_parts(tmp_path):
    run(job(tmp_path / "data", range(0, 12, 2), read=read))
    start = Counted()
    run(job(tmp_path / "data", [0, 3, 4, 5, 6, 8], 5, start=start, read=read))
    assert start.items == [3, 5]
    assert contents(tmp_path / "data") == {
        "00000.h5": {"0": 0, "3": 9, "4": 16},
        "00001.h5": {"5": 25, "6": 36, "8": 64},
    }


def test_parts_of_known_items_alone_need_no_work(tmp_path):
    run(job(tmp_path / "data", range(8), read=read))
    start = Counted()
    run(job(tmp_path / "data", range(8), 3, start=start, read=read))
    assert start.items == []
    assert list(contents(tmp_path / "data")) == ["00000.h5", "00001.h5", "00002.h5"]


def test_a_failure_keeps_the_finished_parts(tmp_path):
    def failing():
        def work(x: int) -> int:
            if x == 6:
                raise StoreError("no image 6")
            return square(x)

        return work

    with pytest.raises(StoreError, match="no image 6"):
        run(job(tmp_path / "data", range(10), start=failing))
    start = Counted()
    run(job(tmp_path / "data", range(10), start=start))
    assert start.items == [4, 5, 6, 7, 8, 9]


def test_a_changed_file_is_made_again(tmp_path, capsys):
    run(job(tmp_path / "data", range(8)))
    (tmp_path / "data/00001.h5").write_text('{"4": 17}')  # through the link, as a broken disk would
    start = Counted()
    run(job(tmp_path / "data", range(8), start=start))
    assert start.items == [4, 5, 6, 7]
    assert contents(tmp_path / "data")["00001.h5"]["4"] == 16
    assert "content has changed" in capsys.readouterr().err


def test_what_was_made_for_other_knobs_goes_and_what_is_foreign_stops(tmp_path, capsys):
    folder = tmp_path / "data"
    run(job(folder, range(10)))
    run(job(folder, range(4)))
    assert list(contents(folder)) == ["00000.h5"]
    assert "removed" in capsys.readouterr().err
    (folder / "mine.h5").write_text("{}")
    start = Counted()
    with pytest.raises(StoreError, match=r"mine\.h5: not made by toy.*move it away"):
        run(job(folder, range(6), start=start))
    assert start.items == []
    assert (folder / "mine.h5").exists()


def test_another_runs_parts_are_waited_for_and_taken(tmp_path):
    mine = job(tmp_path / "data", range(8), start=(start := Counted()))
    first = mine.parts[0]
    held, go = threading.Event(), threading.Event()

    def other() -> None:
        with locked("toy", first.fingerprint):
            held.set()
            go.wait(30)
            with adding("toy", first.fingerprint, "content.h5") as draft:
                draft.path.write_text('{"made": 1}')

    def finish(x: int) -> int:
        go.set()
        return square(x)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(30)
    mine = Job("toy", tmp_path / "data", mine.parts, lambda: lambda x: (start()(x) and finish(x)) or finish(x), write)
    run(mine)
    thread.join()
    assert start.items == [4, 5, 6, 7]
    assert contents(tmp_path / "data")["00000.h5"] == {"made": 1}


def test_parts_without_items_are_written(tmp_path):
    parts = [Part(tmp_path / "data/a.h5", fingerprint("a"), []), Part(tmp_path / "data/b.h5", fingerprint("b"), [2])]
    run(Job("toy", tmp_path / "data", parts, squares, write))
    assert contents(tmp_path / "data") == {"a.h5": {}, "b.h5": {"2": 4}}
    assert find("toy", fingerprint("a")) is not None


def test_looking_ahead_costs_the_same_after_many_parts():
    """Looks that are stacked on each other would run out of the stack."""
    ahead = _Ahead(iter(range(200_000)))
    for expected in range(200_000):
        ahead.look()
        ahead.look()
        assert next(ahead) == expected
    ahead.look()
    assert list(ahead) == []
