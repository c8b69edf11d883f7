"""`pretrain/` is a project of DVC's own: commands in the root know nothing of its stages, and it runs by itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PIPELINE = """
stages:
  count:
    cmd: >-
      echo made > out.txt && echo '{"n": 3}' > metrics.json
    outs: [out.txt]
    metrics:
      - metrics.json: {cache: false}
"""


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, cwd=cwd, env=os.environ | {"PATH": path}, capture_output=True, text=True)


def dvc(*command: str, cwd: Path) -> str:
    """What a command prints; it has to end well."""
    done = run(sys.executable, "-m", "dvc", *command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """This project's settings and its `pretrain/`, beside a pipeline of one stage that has run."""
    folder = tmp_path_factory.mktemp("clone")
    names = run("git", "ls-files", ".dvc", ".dvcignore", "pretrain", cwd=ROOT).stdout.split()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")  # without Hydra
    (folder / "stages").symlink_to(ROOT / "stages")
    (folder / "dvc.yaml").write_text(PIPELINE)
    run("git", "init", "-q", cwd=folder)
    dvc("repro", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    assert run("git", *identity, "commit", "-qm", "made", cwd=folder).returncode == 0
    return folder


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["status"], "Data and pipelines are up to date."),
        (["checkout"], ""),
        (["metrics", "diff"], ""),
        (["repro"], "Data and pipelines are up to date."),
        (["stage", "list", "--name-only"], "count"),
    ],
    ids=["status", "checkout", "metrics", "repro", "stages"],
)
def test_commands_in_the_root_do_not_see_it(clone, command, expected):
    said = dvc(*command, cwd=clone)
    assert "pretrain" not in said
    assert "WARNING" not in said
    assert expected in said


def test_it_runs_by_itself(clone):
    said = dvc("repro", "--dry", "render@encoder", cwd=clone / "pretrain")
    assert "Running stage 'render@encoder'" in said
    stages = dvc("stage", "list", "--name-only", cwd=clone / "pretrain").split()
    assert {"train@encoder", "export@second", "generator", "further"} <= set(stages)
    assert "count" not in stages


def test_its_code_is_named_by_files_that_are_there():
    """Outside of its own folder DVC ignores nothing: of a folder it would count what Python leaves there."""
    stages = yaml.safe_load((ROOT / "pretrain/dvc.yaml").read_text())["stages"]
    deps = [dep for stage in stages.values() for dep in stage.get("do", stage)["deps"] if dep.startswith("../")]
    assert deps
    assert [dep for dep in deps if not (ROOT / dep.replace("../", "")).is_file()] == []
