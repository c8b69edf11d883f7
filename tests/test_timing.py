import json
import subprocess
import sys
import time

import pytest

from stages import timing


@pytest.fixture
def root(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/align.json").write_text('{"images": 3}')
    return tmp_path


def test_the_longest_run_of_the_same_numbers_is_kept(root):
    for seconds in (0.3, 0.1):
        with timing.timed("align", root):
            time.sleep(seconds)
    kept = timing.took("align", root)
    assert 0.3 <= kept["seconds"] < 5
    assert kept["processor"] < kept["seconds"]
    assert kept["memory"] > 2**20
    assert timing.machine() == kept["machine"]


def test_other_numbers_are_another_run(root):
    with timing.timed("align", root):
        pass
    with timing.timed("align", root):
        time.sleep(0.1)
        (root / "metrics/align.json").write_text('{"images": 4}')
    assert timing.took("align", root)["seconds"] >= 0.1
    (root / "metrics/align.json").write_text('{"images": 5}')
    assert timing.took("align", root) is None
    assert timing.took("report", root) is None  # has no numbers


def test_a_run_that_fails_took_nothing(root):
    def fail() -> None:
        with timing.timed("align", root):
            time.sleep(0.1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert timing.took("align", root) is None


def test_processes_count(root):
    with timing.timed("align", root):
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert timing.took("align", root)["processor"] >= 0.3


def test_what_is_broken_is_as_if_it_were_not_there(root, cache):
    with timing.timed("align", root):
        time.sleep(0.1)
    (path,) = (cache / "timing").iterdir()
    for content in ("{", "[]", json.dumps({"seconds": 1})):
        path.write_text(content)
        assert timing.took("align", root) is None


def test_the_revision_tells_of_changes(root):
    def git(*words):
        named = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        return subprocess.run(["git", *named, *words], cwd=root, check=True, capture_output=True, text=True).stdout

    assert timing.revision(root) == ""
    git("init", "-q")
    (root / "dvc.yaml").write_text("stages: {}\n")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    assert timing.revision(root) == git("rev-parse", "HEAD").strip()
    (root / "dvc.yaml").write_text("stages: {a: 1}\n")
    assert timing.revision(root).endswith(" and changes that are not committed")
