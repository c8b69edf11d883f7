"""The smoke profile end to end, as a user runs it: in folders of their own, through DVC."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.slow


class Checkout:
    """The project's tracked files in a folder of their own, on the smoke profile, with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
        for name in filter(None, listing.stdout.split("\0")):
            if name == "dvc.lock" or not (ROOT / name).is_file():
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        self.environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "R2R_CACHE": str(folder / ".cache"),
        }
        self("git", "init", "-q")
        self("r2r", "params", "profile=smoke")

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_until_free(self, stage: str, seconds: float = 20) -> None:
        """Wait for a stage whose parent was killed to let go of its lock."""
        with open(self.folder / f".{stage}.lock") as lock:
            for _ in range(int(seconds / 0.1)):
                try:
                    return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.1)
        raise AssertionError(f"{stage} outlived dvc by {seconds} s")

    def hashes(self) -> dict[str, str]:
        """Output -> hash, as dvc.lock states it."""
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    checkout = Checkout(tmp_path_factory.mktemp("reference"))
    checkout("dvc", "repro")
    return checkout


def test_a_second_run_changes_nothing(reference):
    before = reference.hashes()
    assert "Running stage" not in reference("dvc", "repro")
    assert reference.hashes() == before


def test_every_stage_leaves_its_numbers_and_the_report_its_page(reference):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in stages:
        if stage != "report":
            metrics = json.loads((reference.folder / "metrics" / f"{stage}.json").read_text())
            assert metrics
            assert all(isinstance(value, int | float | str) for value in metrics.values()), f"{stage} is not flat"
    page = (reference.folder / "plots" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_run_killed_in_each_stage_goes_on_and_ends_with_the_same_hashes(reference, tmp_path):
    checkout = Checkout(tmp_path)
    for stage, sign in (("fetch", "data/source/*.zip"), ("align", "data/align/*.h5"), ("train", ".cache/train/*/*")):
        process = checkout.start("dvc", "repro", stage)
        while process.poll() is None and not list(checkout.folder.glob(sign)):
            time.sleep(0.01)
        assert process.poll() is None, f"{stage} ended before it could be killed"
        process.kill()  # dvc alone: the stage must not live on as an orphan
        process.wait()
        checkout.wait_until_free(stage)
    checkout("dvc", "repro")
    assert checkout.hashes() == reference.hashes()


def test_more_identities_than_there_are_is_an_error_naming_both_numbers(reference, tmp_path):
    checkout = Checkout(tmp_path)
    shutil.copytree(reference.folder / "data", checkout.folder / "data", dirs_exist_ok=True)
    checkout("r2r", "params", "profile=smoke", "n_ids=100000")
    done = subprocess.run(
        [BIN / "r2r", "filter"], cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "100000" in done.stderr
