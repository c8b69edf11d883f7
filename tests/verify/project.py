"""A DVC project of three stages in git, quick to run: no stage of the real one is in it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

BIN = Path(sys.executable).parent
MAKE = """
from pathlib import Path
import h5py, numpy, os, yaml
Path("data/faces").mkdir(parents=True, exist_ok=True)
values = numpy.arange(12.0).reshape(4, 3)
if os.environ.get("PLANTED"):
    values[2, 1] += 0.5
for name in ("a", "b"):
    with h5py.File(f"data/faces/{name}.h5", "w") as file:
        file.create_dataset("vectors", data=values if name == "b" else values * 0, track_times=False)
"""
MEASURE = """
from pathlib import Path
import h5py, json
Path("metrics").mkdir(exist_ok=True)
with h5py.File("data/faces/b.h5") as file:
    Path("metrics/sum.json").write_text(json.dumps({"sum": float(file["vectors"][()].sum()), "rows": 4}))
Path("roc.csv").write_text("fpr,tpr\\n0,0\\n0.5,1\\n")
"""
STAGES = {
    "make": {"cmd": "python make.py", "deps": ["make.py"], "outs": ["data/faces"]},
    "measure": {
        "cmd": "python measure.py",
        "deps": ["measure.py", "data/faces"],
        "outs": ["roc.csv"],
        "metrics": [{"metrics/sum.json": {"cache": False}}],
    },
}


class Project:
    """The project, committed; `run` calls a command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "make.py").write_text(MAKE)
        (folder / "measure.py").write_text(MEASURE)
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
        self.run("git", "init", "-q", "-b", "main")
        self.run("dvc", "init", "-q")
        self.run("dvc", "config", "core.analytics", "false")
        self.commit("as it is")

    def run(self, *command: str, code: int = 0, **environment: str) -> str:
        return call(self.folder, *command, code=code, **environment)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)


def call(folder: Path, *command: str, code: int = 0, **environment: str) -> str:
    """What a command prints; it must end with `code`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    who = {f"GIT_{role}_{part}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**kept, **who, "PATH": path, **environment}, capture_output=True, text=True
    )
    assert done.returncode == code, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
