import fcntl
import subprocess
import sys
from pathlib import Path

import yaml
from typer.testing import CliRunner

from stages.cli import app

ROOT = Path(__file__).parent.parent


def test_a_stage_is_a_command_a_module_and_a_block_of_parameters():
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert commands[: len(stages)] == stages
    for stage in stages:
        assert (ROOT / "stages" / f"{stage}.py").exists() or (ROOT / "stages" / stage / "__init__.py").exists()
        assert stage in yaml.safe_load((ROOT / "params.yaml").read_text())


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
