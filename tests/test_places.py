"""A checkout that cannot be written, another user, no home: said before the work, or it runs."""

import os
import pickle
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

import pytest

from tests.evaluate.conftest import jpeg

ROOT = Path(__file__).parent.parent
SOMEBODY = 54321  # a number that no account has


SITE = sysconfig.get_paths()["purelib"]


def open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in path.resolve().parents)


def interpreter() -> str | None:
    """This Python or the system's of the same version, if another user may run it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/python{version}"):
        if (
            Path(path).exists()
            and open_to_all(Path(path))
            and open_to_all(ROOT / "dvc.yaml")
            and open_to_all(Path(SITE))
        ):
            return path
    return None


as_somebody = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or interpreter() is None,
    reason="to become another user takes root, and a Python and code that all may read",
)


@pytest.fixture(scope="module")
def place():
    """A folder that everyone may read: a benchmark of 20 pairs, and `own`, which everyone may write."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        images = [jpeg(number // 2 if number % 4 < 2 else number) for number in range(40)]
        (folder / "toy.bin").write_bytes(pickle.dumps((images, [pair % 2 == 0 for pair in range(20)])))
        (folder / "own").mkdir()
        (folder / "own").chmod(0o777)
        yield folder


def r2r(*arguments: object, user: int | None = None, cwd: Path | str = "/", **environment: object):
    environment |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{SITE}", "PYTHONDONTWRITEBYTECODE": 1}
    environment |= {"OMP_NUM_THREADS": 1}
    rights = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run(
        [sys.executable if user is None else interpreter(), "-m", "stages.cli", *map(str, arguments)],
        cwd=cwd,
        env={name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        **rights,
    )


def measure(place: Path) -> list[object]:
    return ["evaluate", "--backbone", ROOT / "stages/embed/encoder.onnx", "--benchmark", place / "toy.bin"]


@as_somebody
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}])
def test_another_user_needs_nothing_but_a_cache(place, home):
    done = r2r(*measure(place), user=SOMEBODY, R2R_CACHE=place / "own", **home)
    assert done.returncode == 0, done.stderr
    assert "toy" in done.stdout
    assert (place / "own/numba").is_dir()


@as_somebody
@pytest.mark.parametrize("environment", [{}, {"HOME": "/"}, {"R2R_CACHE": "/of-root/cache"}], ids=str)
def test_a_cache_that_cannot_be_written_is_said_before_the_work(place, environment):
    done = r2r(*measure(place), user=SOMEBODY, **environment)
    assert done.returncode == 1
    assert "set R2R_CACHE to a folder of your own" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_stage_says_so_before_it_writes(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "file").write_text("no folder")
    done = r2r("align", cwd=tmp_path, R2R_CACHE=tmp_path / "file/cache")
    assert done.returncode == 1
    assert "file/cache cannot be written" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "params.yaml"]


def test_one_python_floor_which_pip_names_before_the_constraints():
    floor = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert re.findall(r"Python (3\.\d+) or later", (ROOT / "README.md").read_text()) == [floor]
    assert f'python-version: "{floor}"' in (ROOT / ".github/workflows/tests.yaml").read_text()
    first, *others = re.findall(r"pip install .*", (ROOT / "Makefile").read_text().split("venv .venv\n")[1])
    assert first == "pip install -q --no-deps -e ."  # constraints of a newer Python are but a conflict to an older one
    assert all("-c constraints.txt" in line for line in others)
