"""An experiment in a folder of its own runs the code that lies there: not the workspace's, nor an installed one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
EDIT = """

def run(params, root=Path(".")):
    for folder in ("data/fit", "plots/fit"):
        emptied(root / folder)
    write_json(root / "metrics/fit.json", {"code": __file__, "folder": str(Path.cwd())})
"""


def run(*command: str, cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "GIT_AUTHOR_NAME": "a", "GIT_COMMITTER_NAME": "a"}
    environment |= {"GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_EMAIL": "a@b.c"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_queued_code_is_what_runs(tmp_path):
    """A stage is edited and run as an experiment in a folder of its own: by the real command, in the real DVC."""
    project = tmp_path / "a project"
    for name in run("git", "ls-files", "stages", cwd=ROOT).splitlines():
        if name.endswith((".py", ".yaml")) and (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, project / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"method": "none", "transfer": {}, "images_per_id": 10}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["fit"]
    stage["deps"] = ["stages/fit.py"]
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"fit": stage}}))
    run("git", "init", "-q", cwd=project)
    run(sys.executable, "-m", "dvc", "init", "-q", cwd=project)
    run("git", "add", "-A", cwd=project)
    run("git", "commit", "-qm", "as it is", cwd=project)

    code = project / "stages/fit.py"
    code.write_text(code.read_text() + EDIT)
    run(sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", "edited", cwd=project)

    ref = run("git", "for-each-ref", "--format=%(refname)", "refs/exps", cwd=project).split()
    made = [name for name in ref if name.endswith("/edited")]
    assert len(made) == 1, ref
    metrics = yaml.safe_load(run("git", "show", f"{made[0]}:metrics/fit.json", cwd=project))
    assert Path(metrics["code"]) == Path(metrics["folder"]) / "stages/fit.py"
    assert project / ".dvc/tmp/exps" in Path(metrics["folder"]).parents
