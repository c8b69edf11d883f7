"""What `make` writes depends on the plan only: not on the number of processes, an interruption or what stood there."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stages.images.digiface import DigiFace
from stages.knobs import ParamsError
from stages.run import loop
from stages.store import StoreError, decode
from stages.world import benchmarks, datasets, portraits
from stages.world.datasets import make
from stages.world.portraits import Portrait, Shot
from stages.world.zips import source_zips
from tests.floors import closure, module_path
from tests.world import fake


@pytest.fixture(autouse=True)
def fake_world(monkeypatch, tmp_path):
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "photograph", fake.photograph)
    monkeypatch.setattr(datasets, "warm", fake.warm)


@pytest.fixture
def serial(monkeypatch):
    monkeypatch.setattr(datasets, "executor", lambda workers: loop)


def plan(folder, identities=range(5), **changes):
    knobs = {"images_per_id": 3, "look": "raster", "size": 8, "seed": 0, "ids_per_zip": 2, "name": "source"} | changes
    return source_zips(folder, identities=identities, **knobs)


def render(folder, identities=range(5), workers=1, **changes):
    return make(plan(folder, identities, **changes), workers)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_zips_are_digiface_and_whole(tmp_path, serial):
    made = render(tmp_path / "source")
    source = DigiFace(tmp_path / "source")
    assert [path.name for path in source.zips] == [f"subjects_{a}-{a + 1}_3_imgs.zip" for a in (0, 2, 4)]
    assert source.identities.tolist() == [0, 1, 2, 3, 4, 5]  # the last zip is rendered whole
    assert source.missing_identities == source.missing_images == 0
    np.testing.assert_array_equal(source.image(source.rows(3)[2]), fake.picture("3 0 raster 8 2 0"))
    with zipfile.ZipFile(source.zips[1]) as file:
        assert file.namelist() == ["2/0.png", "2/1.png", "2/2.png", "3/0.png", "3/1.png", "3/2.png"]
        assert all(member.compress_type == zipfile.ZIP_STORED for member in file.infolist())
    assert [entry.numbers for entry in made] == [{"images": 6, "discarded": 4}] * 3


def test_number_of_processes_changes_nothing(tmp_path):
    render(tmp_path / "one", workers=1)
    shutil.rmtree(tmp_path / "cache")
    render(tmp_path / "two", workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_more_identities_only_add_zips(tmp_path, serial):
    render(tmp_path / "source", range(4))
    before = {path: path.stat().st_ino for path in (tmp_path / "source").iterdir()}
    render(tmp_path / "source", range(6))
    after = {path: path.stat().st_ino for path in (tmp_path / "source").iterdir()}
    assert len(after) == 3
    assert before.items() < after.items()


def test_another_seed_renders_anew(tmp_path, serial):
    render(tmp_path / "source", range(2))
    before = hashes(tmp_path / "source")
    render(tmp_path / "source", range(2), seed=1)
    assert hashes(tmp_path / "source").keys() == before.keys()
    assert hashes(tmp_path / "source") != before


def test_dead_process_is_named_and_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "photograph", fake.dies)
    with pytest.raises(StoreError, match=r"process died.*fetch\.workers"):
        render(tmp_path / "source", range(10))
    for path in (tmp_path / "cache").rglob("content.zip"):
        assert zipfile.ZipFile(path).testzip() is None
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch, serial):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_disk)
    with pytest.raises(StoreError, match=r"cache/fetch/[0-9a-f]{64}: the disk is full"):
        render(tmp_path / "source")
    assert not (tmp_path / "source").exists()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.is_file()]


KILLED = """
from pathlib import Path
from tests.world import fake
from tests.world.test_datasets import plan
from stages.world import datasets
if __name__ == "__main__":
    datasets.photograph, datasets.warm = fake.slow, fake.warm
    datasets.make(plan(Path({folder!r}), range(40)), 2)
"""


def test_killed_run_leaves_no_process_and_goes_on(tmp_path):
    pids, script = tmp_path / "pids", tmp_path / "killed.py"
    pids.mkdir()
    script.write_text(KILLED.format(folder=str(tmp_path / "source")))
    root = str(Path(__file__).parents[2])
    run = subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"FAKE_WORLD_PIDS": str(pids), "PYTHONPATH": root},
        stderr=subprocess.DEVNULL,
    )

    def finished() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("fetch/*/content.zip")}

    deadline = time.monotonic() + 60
    while len([path for path in finished() if len(path.parent.name) == 64]) < 3:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = {path: time_ for path, time_ in finished().items() if len(path.parent.name) == 64}
    assert 3 <= len(before) < 20

    def alive(pid: int) -> bool:
        try:
            return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False

    workers = [int(path.name) for path in pids.iterdir()]
    assert workers
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    render(tmp_path / "source", range(40), workers=1)
    assert before.items() <= finished().items()
    shutil.rmtree(tmp_path / "cache")
    render(tmp_path / "whole", range(40), workers=1)
    assert hashes(tmp_path / "source") == hashes(tmp_path / "whole")


def test_nothing_missing_starts_no_process(tmp_path, monkeypatch):
    render(tmp_path / "source")
    monkeypatch.setattr(datasets, "executor", lambda workers: None)
    render(tmp_path / "source")


def test_fingerprint_follows_every_argument():
    changes = [{}, {"name": "pretrain"}, {"images_per_id": 4}, {"look": "camera"}, {"size": 9}, {"seed": 1}]
    stamps = [plan(Path("x"), range(2), **change)[0].fingerprint for change in changes]
    assert len(set(stamps)) == len(changes)


def test_the_code_of_a_picture_is_what_draws_it():
    """All of the world's modules that a portrait needs, and of the others those that find a face in it."""
    needed = {
        module_path(name).relative_to(module_path("stages.cli").parent) for name in closure("stages.world.portraits")
    }
    files = {path.with_suffix("").as_posix() for path in needed if path.name != "__init__.py"}
    assert {name for name in files if name.startswith("world/")} == {
        name for name in datasets.PORTRAITS if name.startswith("world/")
    }
    assert {name for name in files if name.startswith("align/")} == set(datasets.FACES)
    assert set(datasets.PORTRAITS) <= files


def test_a_change_of_the_detector_leaves_the_source_as_it_is(monkeypatch):
    def stamps():
        bin_ = benchmarks.pair_benchmark(Path("x"), "random", 40, 8, 0)
        return plan(Path("x"), range(2))[0].fingerprint, bin_.fingerprint

    before = stamps()
    monkeypatch.setattr(datasets, "FACES", ("align/warp",))
    after = stamps()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_more_people_than_a_population_has():
    with pytest.raises(ParamsError, match="10,000,001 people are asked for, but the embedded source has 10,000,000"):
        plan(Path("x"), range(10_000_001))


@dataclass(frozen=True)
class Scene:
    """A fake scene that remembers its sample."""

    sample: int


@pytest.fixture
def shy_world(monkeypatch):
    """Renders black squares whose brightness is the sample's; the detector misses samples below 1000."""
    monkeypatch.setattr(portraits, "sample_traits", lambda identity, seed: identity)
    monkeypatch.setattr(portraits, "build_head", lambda traits: traits)
    monkeypatch.setattr(portraits, "sample_scene", lambda identity, sample, seed: Scene(sample))
    monkeypatch.setattr(
        portraits, "render", lambda head, scene, look, size: np.full((size, size, 3), scene.sample % 199, np.uint8)
    )

    def detect(images):
        found = [int(image[0, 0, 0]) in visible for image in images]
        return [Faces(int(yes)) for yes in found]

    visible: set[int] = set()
    monkeypatch.setattr(portraits, "_detector", lambda: SimpleNamespace(detect=detect))
    return visible


class Faces:
    def __init__(self, count: int) -> None:
        self.scores, self.landmarks = np.ones(count), np.arange(10.0).reshape(1, 5, 2).repeat(count, 0)

    def __len__(self) -> int:
        return len(self.scores)


def test_missing_face_is_taken_again_and_counted(shy_world):
    shy_world |= {1, 2000 % 199, 2002 % 199}
    frames = (portraits.as_met, portraits.as_met)
    portrait = Portrait(5, (Shot(0), Shot(1), Shot(2, frames=frames)), "camera", 16, 0, crop="found")
    pictures = portraits.photograph(portrait)
    assert [picture.discarded for picture in pictures] == [2, 0, 4, 0]
    assert [round(decode(picture.encoded).mean()) for picture in pictures] == [2000 % 199, 1, 2002 % 199, 2002 % 199]


def test_person_without_a_face_is_an_error(shy_world):
    with pytest.raises(StoreError, match="identity 5, camera look, 16 px: no face found in 20 scenes"):
        portraits.photograph(Portrait(5, (Shot(0),), "camera", 16, 0, crop="found"))
