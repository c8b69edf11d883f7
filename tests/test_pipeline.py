"""The smoke profile end to end, as a user runs it: in folders of their own, through DVC."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.transfer.arc2face import tiny

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

# A generator of random weights is quick; there is no face in its images, so `arc2face` has to keep them.
SMOKE = ("profile=smoke", "judge.encoder=stages/embed/encoder.onnx")
ARC2FACE = (*SMOKE, "method=arc2face", "transfer.weights=tiny", "align.missing=keep")
STAGES = ["fetch", "embed", "filter", "gap", "fit", "synthesize", "judge", "align", "train", "evaluate", "report"]

pytestmark = pytest.mark.slow


class Checkout:
    """The project's tracked files in a folder of their own, on the smoke profile, with a cache of its own.

    Of an original it is a copy, with all that was run there.
    """

    def __init__(self, folder: Path, original: "Checkout | None" = None) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if name != "R2R_CACHE"}
        self.environment["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        if original:
            subprocess.run(["cp", "-a", f"{original.folder}/.", folder], check=True)
            return
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
        for name in filter(None, listing.stdout.split("\0")):
            if name == "dvc.lock" or not (ROOT / name).is_file():
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        tiny.pipeline(width=256).save_pretrained(folder / "tiny")
        self.r2r("params", *SMOKE)
        self("git", "init", "-q")
        self("git", "add", ".")
        self("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "all")

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def r2r(self, *words: str) -> str:
        return self("python", "-m", "stages.cli", *words)

    def experiment(self, *knobs: str) -> str:
        return self("dvc", "exp", "run", *(word for knob in knobs for word in ("-S", knob)))

    def kill_after(self, stage: str, sign: str) -> None:
        """Run up to a stage, and kill dvc alone when a file of the sign is there: the stage must end with it."""
        command = ["dvc", "repro", stage]
        process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=-3, stderr=-3)
        while process.poll() is None and not list(self.folder.glob(sign)):
            pass
        assert process.poll() is None, f"{stage} ended before it could be killed"
        process.kill()
        process.wait()
        lock = self.folder / f".{stage}.lock"
        subprocess.run(["flock", "-w", "20", lock, "true"], check=True)

    def hashes(self) -> dict[str, str]:
        """Output -> hash, as dvc.lock states it."""
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}

    def made(self) -> dict[Path, int]:
        """When each entry of the cache was made."""
        return {path: path.stat().st_mtime_ns for path in self.folder.glob(".r2r/*/*/entry.json")}


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    checkout = Checkout(tmp_path_factory.mktemp("reference"))
    assert sorted(stages_run(checkout("dvc", "repro"))) == sorted(STAGES)
    return checkout


def test_a_second_run_changes_nothing(reference):
    before = reference.hashes()
    assert "Running stage" not in reference("dvc", "repro")
    assert reference.hashes() == before


def test_every_stage_leaves_its_numbers_and_the_report_its_page(reference):
    for stage in STAGES[:-1]:
        metrics = json.loads((reference.folder / "metrics" / f"{stage}.json").read_text())
        assert metrics
        assert all(isinstance(value, int | float | str) for value in metrics.values()), f"{stage} is not flat"
    page = (reference.folder / "plots" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.fixture(scope="module")
def generated(reference, tmp_path_factory):
    """The experiment `method=arc2face`, and what DVC said of it."""
    checkout = Checkout(tmp_path_factory.mktemp("generated"), reference)
    return checkout, checkout.experiment(*ARC2FACE)


def test_another_method_runs_what_depends_on_it(generated):
    checkout, output = generated
    assert sorted(stages_run(output)) == sorted(STAGES[3:])
    numbers = {name: json.loads((checkout.folder / f"metrics/{name}.json").read_text()) for name in ("gap", "align")}
    assert numbers["gap"]["images"] == 8
    assert numbers["align"]["written"] == 8 * 4


def test_there_and_back_every_stage_comes_from_a_cache(reference, generated, tmp_path):
    """DVC's, where the whole setting was run; ours, where it was not and the images are there nevertheless."""
    checkout = Checkout(tmp_path, generated[0])
    back = checkout.experiment(*SMOKE)
    assert stages_run(back) == []
    assert checkout.hashes() == reference.hashes()
    made = checkout.made()
    checkout.experiment(*ARC2FACE, "synthesize.ids_per_shard=5", "train.epochs=1")
    fresh = {path.relative_to(checkout.folder).parts[1] for path in checkout.made().keys() - made.keys()}
    assert fresh <= {"synthesize", "train", "evaluate"}  # the shards are cut anew out of the old ones


def test_a_comment_regenerates_nothing(generated, tmp_path):
    checkout = Checkout(tmp_path, generated[0])
    made = checkout.made()
    for name in ("align/stage.py", "align/mtcnn.py", "embed/stage.py", "synthesize.py", "world/renderer.py"):
        path = checkout.folder / "stages" / name
        path.write_text(path.read_text() + "\n# a remark\n")
    output = checkout("dvc", "repro")
    assert "fetch" in stages_run(output)  # DVC sees the file, and the stage finds all that it needs
    assert checkout.made() == made
    assert checkout.hashes() == generated[0].hashes()


def test_a_run_killed_in_each_stage_goes_on_and_ends_with_the_same_hashes(reference, generated, tmp_path):
    checkout = Checkout(tmp_path)
    checkout.r2r("params", *ARC2FACE)
    for stage, sign in (
        ("fetch", ".r2r/fetch/*/entry.json"),
        ("synthesize", ".r2r/synthesize/*/entry.json"),
        ("align", ".r2r/align/*/entry.json"),
        ("train", ".r2r/train/*/checkpoint.pt"),
    ):
        checkout.kill_after(stage, sign)
    checkout("dvc", "repro")
    assert checkout.hashes() == generated[0].hashes()


def test_more_identities_than_there_are_is_an_error_naming_both_numbers(reference, tmp_path):
    checkout = Checkout(tmp_path, reference)
    checkout.r2r("params", "profile=smoke", "n_ids=100000")
    done = subprocess.run(
        ["python", "-m", "stages.cli", "filter"], cwd=tmp_path, env=checkout.environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "100000" in done.stderr
