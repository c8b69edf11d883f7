import fcntl
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stages.cli import _alone, app
from stages.params import load
from stages.store import adding

ROOT = Path(__file__).parent.parent


STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def test_a_stage_is_a_command_a_module_and_a_block_of_parameters():
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert commands[: len(STAGES)] == STAGES
    assert {
        name for name, block in yaml.safe_load((ROOT / "params.yaml").read_text()).items() if isinstance(block, dict)
    } == {
        *STAGES,
        "transfer",  # of the chosen method
        "real",
        "digiface",
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_runs_its_stage_on_the_folders_parameters(tmp_path, monkeypatch, stage):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    ran = []
    module = f"stages.{stage}.stage" if (ROOT / "stages" / stage).is_dir() else f"stages.{stage}"
    monkeypatch.setattr(importlib.import_module(module), "run", lambda params, *_: ran.append(params))
    result = CliRunner().invoke(app, [stage])
    assert result.exit_code == 0, result.output
    assert ran == [load()]


def test_help_names_every_stage_without_loading_torch():
    code = "import sys, stages.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert "Detect faces" in CliRunner().invoke(app, ["--help"]).output


def test_a_missing_params_file_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["filter"])
    assert result.exit_code == 1
    assert "make params" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_already_runs_is_refused(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with open(".filter.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = CliRunner().invoke(app, ["filter"])
    assert result.exit_code == 1
    assert "already runs" in result.output


def test_of_several_processes_that_torchrun_started_the_first_holds_the_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    with open(".train.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _alone("train"):
            pass


def test_a_cache_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "params.yaml/cache"))
    result = CliRunner().invoke(app, ["filter"])
    assert result.exit_code == 1
    assert "set R2R_CACHE" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


CHILD = """
import sys
from pathlib import Path
from stages.cli import _alone
with _alone("filter"):
    print("runs", flush=True)
    Path("go").read_text()  # of a pipe: until somebody writes
    Path("done").touch()
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
@pytest.mark.parametrize("under_dvc", [True, False])
def test_a_stage_ends_with_dvc_and_outlives_a_shell(tmp_path, under_dvc):
    os.mkfifo(tmp_path / "go")
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"DVC_STAGE": "filter"} if under_dvc else {})
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"runs\n"
        parent.kill()
    if not under_dvc:
        (tmp_path / "go").write_text("")
    subprocess.run(["flock", "-w", "60", tmp_path / ".filter.lock", "true"], check=True)  # it has ended
    assert (tmp_path / "done").exists() != under_dvc


def test_params_are_composed_from_conf(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["params", "profile=smoke", "n_ids=7"]).exit_code == 0
    assert (load().profile, load().n_ids) == ("smoke", 7)
    before = Path("params.yaml").read_text()
    result = CliRunner().invoke(app, ["params", "n_ids=1"])
    assert (result.exit_code, Path("params.yaml").read_text()) == (1, before)
    assert "n_ids is 1: at least 2" in result.output


def test_the_cache_is_listed_and_pruned():
    with adding("align", "a" * 64, "content.h5") as draft:
        draft.path.write_bytes(bytes(2_000_000))
    assert "align: 1 kept, 2.0 MB" in CliRunner().invoke(app, ["cache"]).output
    assert "align: 0 kept, 0.0 MB, 1 removed" in CliRunner().invoke(app, ["cache", "--prune", "0"]).output


def test_any_protocol_can_be_asked_of_a_file(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("stages.evaluate.stage.evaluate_file", lambda *files, **options: asked.update(options))
    files = ["evaluate", "--backbone", "a.pth", "--benchmark", "b.bin"]
    knobs = ["evaluate.protocol=adaface", "evaluate.norm=false", "align.min_face=40", "evaluate.far=[1e-3, 0.1]"]
    result = CliRunner().invoke(app, [*files, "--no-flip", *(word for knob in knobs for word in ("-S", knob))])
    assert result.exit_code == 0, result.output
    params, align = asked["params"], asked["align"]
    assert (params.protocol, params.norm, params.flip, params.far) == ("adaface", False, False, (1e-3, 0.1))
    assert align.min_face == 40
    assert CliRunner().invoke(app, [*files, "-S", "train.lr=1"]).exit_code == 1
    assert "did you mean" in CliRunner().invoke(app, [*files, "-S", "evaluate.prtocol=adaface"]).output


def test_a_traceback_is_shown_to_those_who_ask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["filter"]).exception.args == (1,)
    monkeypatch.setenv("R2R_DEBUG", "1")
    assert "make params" in str(CliRunner().invoke(app, ["filter"]).exception)


def test_the_version_is_said():
    assert CliRunner().invoke(app, ["--version"]).output.startswith("render2real ")
