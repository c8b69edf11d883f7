"""The smoke profile end to end, as a user runs it: in folders of their own, through DVC."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.transfer.arc2face import tiny

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

# A generator of random weights is quick; there is no face in its images, so `arc2face` has to keep them.
SMOKE = ("profile=smoke", "arc2face.weights=tiny", "synthesize.judge=stages/embed/encoder.onnx")
ARC2FACE = (*SMOKE, "method=arc2face", "align.missing=keep")

pytestmark = pytest.mark.slow


class Checkout:
    """The project's tracked files in a folder of their own, on the smoke profile, with a cache of its own.

    Of an original it is a copy, with all that was run there.
    """

    def __init__(self, folder: Path, original: "Checkout | None" = None) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "R2R_CACHE": str(folder / ".cache"),
        }
        if original:
            shutil.copytree(original.folder, folder, dirs_exist_ok=True)
            return
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
        for name in filter(None, listing.stdout.split("\0")):
            if name == "dvc.lock" or not (ROOT / name).is_file():
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        tiny.pipeline(width=256).save_pretrained(folder / "tiny")
        self("r2r", "params", *SMOKE)
        self("git", "init", "-q")
        self("git", "add", ".")
        self("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "all")

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


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


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


@pytest.fixture(scope="module")
def generated(reference, tmp_path_factory):
    """The experiment `method=arc2face`, and what DVC said of it."""
    checkout = Checkout(tmp_path_factory.mktemp("generated"), reference)
    return checkout, checkout("dvc", "exp", "run", *(word for knob in ARC2FACE for word in ("-S", knob)))


def test_another_method_runs_what_depends_on_it(generated):
    checkout, output = generated
    assert stages_run(output) == ["gap", "synthesize", "align", "train", "evaluate", "report"]
    numbers = {name: json.loads((checkout.folder / f"metrics/{name}.json").read_text()) for name in ("gap", "align")}
    assert numbers["gap"]["images"] == 8
    assert numbers["align"]["written"] == 8 * 4
    assert "Realism transfer" in (checkout.folder / "plots/report.html").read_text()


def test_a_killed_synthesize_goes_on_and_ends_with_the_same_hashes(reference, generated, tmp_path):
    checkout = Checkout(tmp_path, reference)
    checkout("r2r", "params", *ARC2FACE)
    process = checkout.start("dvc", "repro", "synthesize")
    while process.poll() is None and not list(checkout.folder.glob("data/synthesize/*.h5")):
        time.sleep(0.01)
    assert process.poll() is None, "synthesize ended before it could be killed"
    process.kill()
    process.wait()
    checkout.wait_until_free("synthesize")
    checkout("dvc", "repro", "synthesize")
    made, expected = checkout.hashes(), generated[0].hashes()
    for output in ("data/gap", "data/synthesize", "metrics/synthesize.json", "plots/synthesize"):
        assert made[output] == expected[output]


def test_a_knob_of_generation_is_nothing_to_the_method_none(reference, tmp_path):
    checkout = Checkout(tmp_path, reference)
    checkout("r2r", "params", *SMOKE, "arc2face.steps=9")
    assert stages_run(checkout("dvc", "repro")) == ["gap", "synthesize", "report"]  # which shows all parameters


def test_more_identities_than_there_are_is_an_error_naming_both_numbers(reference, tmp_path):
    checkout = Checkout(tmp_path)
    shutil.copytree(reference.folder / "data", checkout.folder / "data", dirs_exist_ok=True)
    checkout("r2r", "params", "profile=smoke", "n_ids=100000")
    done = subprocess.run(
        [BIN / "r2r", "filter"], cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "100000" in done.stderr
