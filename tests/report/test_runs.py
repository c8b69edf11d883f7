"""Two runs of one repository side by side, one of them with a table in DVC's cache alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.report import runs, stage
from stages.store import StoreError
from tests.report.test_report import PARAMS, Page, give, root  # noqa: F401

BIN = Path(sys.executable).parent


@pytest.fixture
def repository(root):  # noqa: F811
    def run(*words: str) -> None:
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def commit(tag: str) -> None:
        run("git", "add", ".")
        run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", tag)
        run("git", "tag", tag)

    (root / "params.yaml").write_text(yaml.safe_dump({"n_ids": 9, "method": "none", "train": {"epochs": 4}}))
    (root / ".gitignore").write_text("/data\n!/data/filter.h5\n")
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    run("dvc", "add", "-q", "plots/train.csv")
    commit("one")
    (root / "metrics/zz.json").write_text("{}")
    run("dvc", "exp", "save", "-q", "-f", "-n", "other")
    (root / "params.yaml").write_text(yaml.safe_dump({"n_ids": 3, "method": "none", "train": {"epochs": 4}}))
    numbers = json.loads((root / "metrics/evaluate.json").read_text())
    give(root, {"evaluate": numbers | {"random": 70.25}})
    (root / "plots/train.csv").unlink()
    (root / "plots/train.csv").write_text("step,epoch,loss,accuracy,lr\n5,0.5,1,2,0.1\n10,1,3,40,0.0\n")
    return root


def test_runs_stand_side_by_side(repository, visit):
    stage.run(PARAMS, repository, compare=["other"])
    content = (repository / "plots/compare.html").read_text()
    Page(content)
    assert not (repository / "plots/report.html").exists()
    part = content[content.index('id="runs"') : content.index('id="samples"')]
    assert '<th scope="col">this run</th><th scope="col">other</th>' in part
    assert '<th scope="row">n_ids</th><td>3</td><td>9</td>' in part
    assert "train.epochs" not in part  # alike
    assert '<th scope="row">random</th><td>70.25</td><td>81.50</td>' in part
    assert "Accuracy against the number of identities" in part
    visited = visit(repository / "plots/compare.html")
    roc = visited.tab.locator("#runs .chart[data-steps=yes]").first
    roc.locator("input[type=range]").fill("900")
    assert "this run" in roc.locator("input[type=range]").get_attribute("aria-valuetext")
    assert "other" in roc.locator("input[type=range]").get_attribute("aria-valuetext")
    assert not visited.asked
    assert not visited.errors

    other = runs.fetch("other", repository)
    assert other.training["loss"].tolist() == [9, 3]  # of DVC's cache
    assert runs.read("this run", repository).training["loss"].tolist() == [1, 3]


def test_what_is_not_there_is_named(repository):
    with pytest.raises(StoreError, match=r"run nobody: .*dvc exp list"):
        runs.fetch("nobody", repository)
    subprocess.run(["rm", "-r", repository / ".dvc/cache"], check=True)
    with pytest.raises(StoreError, match=r"run other: .*dvc pull"):
        runs.fetch("other", repository)
    (repository / "metrics/evaluate.json").write_text("{")
    with pytest.raises(StoreError, match="was it run to its end"):
        runs.read("this run", repository)


def test_an_old_parameter_file_is_read_as_it_is():
    assert runs._flat({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}
