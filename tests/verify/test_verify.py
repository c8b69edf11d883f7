"""A planted difference is found, and said to begin where it was planted."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stages.cli import app
from stages.knobs import ParamsError
from stages.store import StoreError
from stages.verify import verify as verifying
from stages.verify.runs import Run
from stages.verify.verify import explain, verify, versions_apart
from tests.verify.project import Project


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch) -> Path:
    """Where the clones are made."""
    folder = tmp_path_factory.mktemp("clones")
    monkeypatch.setattr(verifying.tempfile, "tempdir", str(folder))
    return folder


def digest(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Left:
    """What a run of two stages left, written by hand: `make` gives a folder of two tables, `measure` a metric of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.folder, self.cache = name, folder / name, folder / name / "cache"
        self.tables = {"a.csv": "x,y\n1,2\n3,4\n", "b.csv": "x,y\n5,6\n"}
        self.metric, self.knob, self.code = {"sum": 21.0}, 1, "c0de"
        self.versions = {"CPU": "one", "torch": "2.15.0"}

    def keep(self, content: bytes, suffix: str = "") -> str:
        name = digest(content) + suffix
        path = self.cache / "files/md5" / name[:2] / name[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name

    def run(self) -> Run:
        listing = [{"md5": self.keep(text.encode()), "relpath": name} for name, text in self.tables.items()]
        faces = {"path": "data/faces", "hash": "md5", "md5": self.keep(json.dumps(listing).encode(), ".dir")}
        metric = self.folder / "metrics/sum.json"
        metric.parent.mkdir(parents=True, exist_ok=True)
        metric.write_text(json.dumps(self.metric))
        lock = {
            "make": {
                "cmd": "python make.py",
                "deps": [{"path": "make.py", "hash": "md5", "md5": self.code}],
                "params": {"params.yaml": {"knob": self.knob}},
                "outs": [faces],
            },
            "measure": {
                "cmd": "python measure.py",
                "deps": [faces],
                "outs": [{"path": "metrics/sum.json", "hash": "md5", "md5": digest(metric.read_bytes())}],
            },
        }
        (self.folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
        return Run(self.name, self.folder, self.cache, self.versions)


@pytest.fixture
def left(tmp_path):
    return Left(tmp_path, "run 1"), Left(tmp_path, "run 2")


def explained(left) -> list[str]:
    return list(explain(*(one.run() for one in left)))


def test_equal_runs_have_nothing_to_explain(left):
    assert explained(left) == []


def test_it_begins_at_the_first_stage_whose_outputs_alone_differ(left):
    left[1].tables["a.csv"] = "x,y\n1,2\n3,4.5\n"
    left[1].metric = {"sum": 21.5}
    assert explained(left) == [
        "make: here it begins; its code, inputs and parameters are equal in both",
        "  data/faces/a.csv: y: 1 of 2 rows differ, first [1]: 4 | 4.5; by 0.5 at most",
        "measure: differs in what it is given (data/faces)",
        "  metrics/sum.json: sum: 21 | 21.5; by 0.5 at most",
    ]


def test_two_places_where_it_begins_are_both_named_before_what_follows(left):
    left[1].metric = {"sum": 20.0}
    assert [line.split(";")[0] for line in explained(left)] == [
        "measure: here it begins",
        "  metrics/sum.json: sum: 21 | 20",
    ]


def test_other_code_and_parameters_are_named_and_that_nothing_came_of_them(left):
    left[1].knob, left[1].code = 2, "beef"
    assert explained(left) == [
        "make: differs in what it is given (make.py, params.yaml:knob)",
        "  and gives the same nevertheless",
    ]


def test_a_file_of_one_run_alone_and_one_whose_content_is_gone(left):
    del left[1].tables["b.csv"]
    left[1].tables["a.csv"] = "x,y\n1,2\n3,5\n"
    one, other = (one.run() for one in left)
    gone = digest(left[0].tables["a.csv"].encode())
    (one.cache / "files/md5" / gone[:2] / gone[2:]).unlink()
    _, first, second, *_ = explain(one, other)
    assert first.startswith(f"  data/faces/a.csv: {gone} | ")
    assert "run 1's content is not at hand: `dvc pull`" in first
    assert second == "  data/faces/b.csv: of run 1 alone"


def test_a_folder_that_was_never_pulled_is_told_by_its_hash(left):
    left[1].tables["a.csv"] = "x,y\n1,2\n3,5\n"
    one, other = (one.run() for one in left)
    for listing in one.cache.glob("files/md5/*/*.dir"):
        listing.unlink()
    lines = list(explain(one, other))
    assert lines[0].startswith("make: here it begins")
    assert any("data/faces: of run 1 alone" in line for line in lines)


def test_a_stage_of_one_run_alone_is_named(left):
    one, other = (one.run() for one in left)
    lock = yaml.safe_load((other.folder / "dvc.lock").read_text())
    del lock["stages"]["measure"]
    (other.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert list(explain(one, other)) == ["measure: a stage of run 1 alone"]


def test_versions_that_differ_are_named_and_what_is_not_known(left):
    left[1].versions = {"CPU": "one", "torch": "2.16.0", "numpy": "2"}
    text = versions_apart(left[0].run(), left[1].run())
    assert text == "versions that differ, of 2 known of both (on one):\n  torch: 2.15.0 | 2.16.0"
    left[0].versions = {"numpy": "2"}
    assert "(on one; of run 1's machine nothing is known):\n  none" in versions_apart(left[0].run(), left[1].run())


def test_a_difference_planted_in_the_second_run_is_found_by_the_real_commands(tmp_path, place, capsys):
    project = Project(tmp_path)
    (tmp_path / "make.py").write_text((tmp_path / "make.py").read_text() + "# not committed\n")
    assert not verify(tmp_path, variables={"PLANTED": "1", "OMP_NUM_THREADS": "7"})
    said = capsys.readouterr()
    assert "not committed, so not verified:\n M make.py" in said.err
    assert said.out.splitlines()[:4] == [
        "make: here it begins; its code, inputs and parameters are equal in both",
        "  data/faces/b.h5: vectors: 1 of 4 rows differ, first [2, 1]: 7 | 7.5; by 0.5 at most",
        "measure: differs in what it is given (data/faces)",
        "  metrics/sum.json: sum: 66 | 66.5; by 0.5 at most",
    ]
    assert "\n  OMP_NUM_THREADS: " in said.out
    (kept,) = place.iterdir()
    assert said.out.rstrip().endswith(str(kept))
    assert not (tmp_path / "dvc.lock").exists()  # nothing was run in the project itself

    # what the first run left, committed, is what a run beside dvc.lock gives again
    (tmp_path / "make.py").write_text((kept / "1/make.py").read_text())
    for name in ("dvc.lock", "metrics/sum.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((kept / "1" / name).read_bytes())
    project.commit("what it gives")
    assert verify(tmp_path, beside_lock=True)
    assert "2 stages, 3 outputs: equal to the bit in dvc.lock and run 2" in capsys.readouterr().out
    assert [*place.iterdir()] == [kept]  # the clones of equal runs are gone


def test_what_cannot_be_verified_says_why(tmp_path):
    with pytest.raises(StoreError, match="not a git repository"):
        verify(tmp_path)
    with pytest.raises(ParamsError, match="leave the overrides away"):
        verify(tmp_path, ["n_ids=7"], beside_lock=True)


def test_the_command_hands_on_what_was_typed(monkeypatch):
    asked, equal = [], [True, False]
    monkeypatch.setattr(
        verifying, "verify", lambda root, overrides, **more: asked.append((overrides, more)) or equal.pop(0)
    )
    plain = {"beside_lock": False, "python": None, "variables": {}}
    assert CliRunner().invoke(app, ["verify"]).exit_code == 0
    assert asked.pop() == (["profile=smoke"], plain)
    more = ["--committed", "--env", "A=b=c", "--python", "/another/python"]
    assert CliRunner().invoke(app, ["verify", *more]).exit_code == 1  # they differ
    assert asked.pop() == ([], {"beside_lock": True, "python": Path("/another/python"), "variables": {"A": "b=c"}})
    said = CliRunner().invoke(app, ["verify", "--env", "A"])
    assert (said.exit_code, asked) == (1, [])
    assert "NAME=VALUE was expected" in said.output
