"""What the workflows run is a script or a target that also runs here, and each does what it says."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.verify.project import Project, call

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project with the scripts, run and committed."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    made = Project(folder)
    made.run("dvc", "repro", "-q")
    made.commit("run")
    return made


def steps() -> list[str]:
    read = [yaml.safe_load(path.read_text()) for path in WORKFLOWS]
    return [
        step["run"] for workflow in read for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]


@pytest.mark.parametrize("step", steps())
def test_a_step_is_one_command_that_runs_here(step):
    program, *words = step.split()
    if program == "make":
        targets = re.findall(r"^([\w./]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words
        assert set(words) <= set(targets)
    elif program == ".venv/bin/r2r":
        assert words == ["verify", "--committed"]
    else:
        assert program.startswith(".ci/")
        assert (ROOT / program).stat().st_mode & 0o111


def test_the_gate_is_lint_tests_lock_and_two_runs():
    rules = dict(re.findall(r"^(\w+): (.*\n(?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert rules["check"].split() == ["test", ".ci/lock", "$(BIN)/r2r", "verify"]
    assert rules["test"].split() == ["lint", "$(BIN)/pytest"]


def test_the_lock_is_of_this_code_or_says_which_stage_is_not(project, tmp_path):
    shutil.rmtree(project.folder / ".dvc/cache", ignore_errors=True)  # as in a fresh clone
    call(project.folder, ".ci/lock")
    copy = shutil.copytree(project.folder, tmp_path / "edited", symlinks=True)
    (copy / "measure.py").write_text((copy / "measure.py").read_text() + "\n")
    said = call(copy, ".ci/lock", code=1)
    assert "Running stage 'measure'" in said
    assert "Running stage 'make'" not in said
    assert "run 'dvc repro' and commit dvc.lock" in said


def test_a_run_is_compared_and_the_comment_is_handed_to_cml(project, tmp_path):
    copy = shutil.copytree(project.folder, tmp_path / "branch", symlinks=True)
    assert "run 'dvc repro' first" in call(copy, ".ci/compare", "main", code=1)
    (copy / "plots").mkdir()
    (copy / "plots/roc.png").write_bytes(b"a picture")
    assert "No metric has changed." in call(copy, ".ci/compare", "main")
    (copy / "metrics/sum.json").write_text('{"sum": 70.0, "rows": 4}')
    text = call(copy, ".ci/compare", "main")
    assert re.search(r"\| metrics/sum.json\s+\| sum\s+\| 66.0\s+\| 70.0\s+\| 4.0\s+\|", text)
    assert text.startswith("## Metrics against main (")
    assert text.rstrip().endswith("![ROC curves of this run](plots/roc.png)")

    (copy / "comment.md").write_text(text)
    said = call(copy, ".ci/comment", "comment.md", code=1)
    assert "no cml on the PATH" in said
    assert text in said
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "cml").write_text('#!/bin/sh\necho "cml got: $*"\n')  # CML itself asks a site outside
    (tools / "cml").chmod(0o755)
    path = f"{tools}:/usr/bin:/bin"
    assert call(copy, ".ci/comment", "comment.md", PATH=path) == "cml got: comment update comment.md\n"
    assert "not there, or empty" in call(copy, ".ci/comment", "nothing.md", code=1, PATH=path)
