"""Exactly the missing rows are queued, once each: in a real git repository, with DVC's part played by the test."""

import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from stages import params
from stages.tables import experiments, run
from stages.tables.results import place, read

TABLE = """
caption: a toy
source: nowhere
columns: {LFW: lfw}
embedded: {random: random}
rows:
  - {name: plain, set: [method=none], published: [90]}
  - {name: plain again, set: [method=none, n_ids=3], published: [91]}
  - {name: Moved +, set: [method=vsait]}
  - {name: not here, set: [method=unsb], sizes: {paper: []}}
  - {name: theirs, needs: {train.data: what they have}}
"""
STATUS = """Task     Name             Created    Status
a9b683c  toy-plain-0      02:50 PM   Queued
d571786  toy-Moved-0      Nov 25, 2026   Failed

Worker status: 1 active, 0 idle
"""


@pytest.fixture
def root(tmp_path) -> Path:
    files = {
        "tables/toy.yaml": TABLE,
        "tables/other.yaml": TABLE.replace("plain", "simple"),
        "tables/profile/embedded.yaml": "set: [n_ids=3]",
        "dvc.yaml": yaml.safe_dump(
            {"stages": {"evaluate": {"deps": ["stages/code.py", "data"]}, "report": {"deps": []}}}
        ),
        "stages/code.py": "1",
        "stages/elsewhere.py": "1",
        "conf/config.yaml": "{}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(root: Path, *words: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")


class Dvc:
    """What DVC does to git: an experiment is a commit with its parameters and metrics, under refs/exps."""

    def __init__(self) -> None:
        self.queued: dict[str, list[str]] = {}
        self.calls: list[str] = []
        self.fails: set[str] = set()

    def __call__(self, root: Path, *words: str, **environment: str) -> str:
        self.calls.append(" ".join(words[:2]))
        if words[:2] == ("exp", "run"):
            name = words[words.index("--name") + 1]
            self.queued[name] = [word for before, word in pairwise(words) if before == "-S"]
        if words[:2] == ("queue", "start"):
            for name, overrides in self.queued.items():
                if name not in self.fails:
                    self.finish(root, name, overrides)
            self.queued = {}
        return "Worker status: 0 active, 0 idle"

    def finish(self, root: Path, name: str, overrides: list[str]) -> None:
        values = yaml.safe_load(compose(overrides))
        (root / "metrics").mkdir()
        (root / "params.yaml").write_text(yaml.safe_dump(values))
        (root / "metrics/evaluate.json").write_text(json.dumps({"random": 80.0 + values["seed"]}))
        git(root, "add", "params.yaml", "metrics")
        tree, head = git(root, "write-tree").strip(), git(root, "rev-parse", "HEAD").strip()
        made = git(root, "commit-tree", tree, "-p", head, "-m", name).strip()
        git(root, "reset", "-q")
        shutil.rmtree(root / "metrics")
        (root / "params.yaml").unlink()
        git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", made)


def compose(overrides: list[str], conf: Path | None = None) -> str:
    values = {"n_ids": 3, "seed": 0, "method": "none"}
    return yaml.safe_dump(values | {word.split("=")[0]: yaml.safe_load(word.split("=")[1]) for word in overrides})


@pytest.fixture
def dvc(monkeypatch) -> Dvc:
    played = Dvc()
    monkeypatch.setattr(experiments, "_dvc", played)
    monkeypatch.setattr(experiments, "POLL", 0.0)
    monkeypatch.setattr(experiments, "ASK", 0.0)
    monkeypatch.setattr(params, "compose", compose)
    experiments._stages.cache_clear()
    return played


def names(root: Path) -> set[str]:
    return experiments.taken(root)


def test_missing_rows_are_run_once_and_then_nothing_is(root, dvc, capsys):
    assert run.run(["toy"], seeds=2, root=root)
    assert names(root) == {"toy-plain-0", "toy-plain-1", "toy-Moved-0", "toy-Moved-1"}  # `plain again` is `plain`
    results = read(place("toy", "embedded", root))
    assert [(one.row, one.seed, one.numbers["random"]) for one in results] == [
        (row, seed, 80.0 + seed) for row in ("plain", "plain again", "Moved +") for seed in (0, 1)
    ]
    assert {one.experiment for one in results if one.row == "plain again"} == {"toy-plain-0", "toy-plain-1"}
    assert "toy: theirs needs train.data: what they have" in capsys.readouterr().out

    commit(root)  # of the results: another revision, the same code
    dvc.calls.clear()
    assert run.run(["toy"], seeds=2, root=root)
    assert dvc.calls == []
    assert "nothing is missing" in capsys.readouterr().out


def test_another_table_shares_them_and_another_seed_is_all_that_is_run(root, dvc):
    run.run(["toy"], seeds=1, root=root)
    dvc.calls.clear()
    assert run.run(["other"], seeds=1, root=root)
    assert dvc.calls == []
    assert {one.experiment for one in read(place("other", "embedded", root))} == {"toy-plain-0", "toy-Moved-0"}
    before = names(root)
    run.run(["other"], seeds=2, root=root)
    assert names(root) - before == {"other-simple-1", "other-Moved-1"}


def test_other_code_is_another_result_and_other_files_are_not(root, dvc):
    run.run(["toy"], seeds=1, root=root)
    (root / "stages/elsewhere.py").write_text("2")
    commit(root)
    dvc.calls.clear()
    assert run.run(["toy"], seeds=1, root=root)
    assert dvc.calls == []
    (root / "stages/code.py").write_text("2")
    commit(root)
    run.run(["toy"], seeds=1, root=root)
    assert {one.experiment for one in read(place("toy", "embedded", root))} == {"toy-plain-0-2", "toy-Moved-0-2"}


def test_code_that_is_not_committed_counts(root, dvc):
    before = experiments.code(root)
    (root / "stages/code.py").write_text("2")
    assert experiments.code(root) != before
    assert (root / "stages/code.py").read_text() == "2"  # nothing was stashed away
    assert git(root, "stash", "list") == ""


def test_a_row_that_failed_is_said_and_the_others_are_kept(root, dvc, capsys):
    dvc.fails = {"toy-plain-0"}
    assert not run.run(["toy"], seeds=1, root=root)
    assert "failed: toy-plain-0; `dvc queue logs toy-plain-0`" in capsys.readouterr().out
    assert [one.row for one in read(place("toy", "embedded", root))] == ["Moved +"]
    dvc.fails = set()
    assert run.run(["toy"], seeds=1, root=root)
    assert [one.row for one in read(place("toy", "embedded", root))] == ["plain", "plain again", "Moved +"]


def test_what_is_queued_is_not_queued_again_and_what_failed_is(root, monkeypatch):
    calls = []

    def dvc(root: Path, *words: str, **environment: str) -> str:
        calls.append(words)
        return STATUS if words == ("queue", "status") else ""

    monkeypatch.setattr(experiments, "_dvc", dvc)
    monkeypatch.setattr(experiments, "wait", lambda root, wanted: [])
    assert experiments.queue(root) == {"toy-plain-0": ("a9b683c", "Queued"), "toy-Moved-0": ("d571786", "Failed")}
    experiments.run(root, [experiments.Wish("toy-plain-0", ("a=1",)), experiments.Wish("toy-Moved-0", ("a=2",))], 2)
    assert [call for call in calls if call[:2] == ("exp", "run")] == [
        ("exp", "run", "--queue", "--name", "toy-Moved-0", "-S", "a=2")
    ]
    assert ("queue", "remove", "d571786") in calls
    assert calls[-1] == ("queue", "start", "-j", "2")


def test_each_job_has_a_gpu_of_its_own(root, monkeypatch):
    seen = []

    def dvc(root: Path, *words: str, **environment: str) -> str:
        if words[1] == "start":
            seen.append((words[-1], environment))
        return f"Worker status: {len(seen)} active, 0 idle"

    monkeypatch.setattr(experiments, "_dvc", dvc)
    experiments.start(root, 3, gpus=2)
    assert seen == [(str(number + 1), {"CUDA_VISIBLE_DEVICES": str(number % 2)}) for number in range(3)]
