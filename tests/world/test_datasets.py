"""What `make` writes depends on the plan only: not on the number of processes, an interruption or what stood there."""

import hashlib
import json
import os
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

from stages.fetch.digiface import Source
from stages.store import StoreError, decode
from stages.world import datasets
from stages.world.datasets import Portrait, Shot, comment, make, render_source, source_zips
from tests.world import fake


@pytest.fixture(autouse=True)
def fake_world(monkeypatch):
    monkeypatch.setattr(datasets, "photograph", fake.photograph)
    monkeypatch.setattr(datasets, "warm", fake.warm)


@pytest.fixture
def serial(monkeypatch):
    monkeypatch.setattr(datasets, "in_processes", fake.in_this_process)


def render(folder, identities=range(5), workers=1, **changes):
    render_source(folder, "source", identities, 3, "raster", 8, workers=workers, **{"ids_per_zip": 2, **changes})


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_zips_are_digiface_and_whole(tmp_path, serial):
    render(tmp_path)
    source = Source(tmp_path)
    assert [path.name for path in source.zips] == [f"subjects_{a}-{a + 1}_3_imgs.zip" for a in (0, 2, 4)]
    assert source.identities.tolist() == [0, 1, 2, 3, 4, 5]  # the last zip is rendered whole
    assert source.missing_identities == source.missing_images == 0
    np.testing.assert_array_equal(decode(source.encoded(3, 2)), fake.picture("3 0 raster 8 2 0"))
    with zipfile.ZipFile(source.zips[1]) as file:
        assert file.namelist() == ["2/0.png", "2/1.png", "2/2.png", "3/0.png", "3/1.png", "3/2.png"]
        assert all(member.compress_type == zipfile.ZIP_STORED for member in file.infolist())


def test_number_of_processes_changes_nothing(tmp_path):
    render(tmp_path / "one", workers=1)
    render(tmp_path / "three", workers=3)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "three")


def test_more_identities_only_add_zips(tmp_path, serial):
    render(tmp_path, range(4))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    render(tmp_path, range(6))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(tmp_path.iterdir())) == 3


def test_fewer_identities_remove_zips(tmp_path, serial):
    render(tmp_path, range(6))
    render(tmp_path, range(2))
    assert [path.name for path in tmp_path.iterdir()] == ["subjects_0-1_3_imgs.zip"]


def test_foreign_zip_is_never_removed(tmp_path):
    foreign = tmp_path / "subjects_0-1999_72_imgs.zip"
    with zipfile.ZipFile(foreign, "w") as file:
        file.writestr("0/0.png", b"")
    with pytest.raises(StoreError, match=r"subjects_0-1999_72_imgs\.zip.*move it away"):
        render(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


def test_benchmarks_of_another_plan_are_removed(tmp_path, serial):
    def benchmark(name):
        return datasets.Dataset(tmp_path / name, "stamp", [], lambda path, pictures: path.is_dir() or path.touch())

    plan = [benchmark(name) for name in ("random.bin", "random-raster.bin", "quality")]
    make(plan)
    (tmp_path / "lfw.bin").touch()  # the user's
    datasets.remove_stale(tmp_path, plan[1:2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lfw.bin", "random-raster.bin", "random-raster.json"]


def test_another_seed_renders_anew(tmp_path, serial):
    render(tmp_path, range(2))
    before = hashes(tmp_path)
    render(tmp_path, range(2), seed=1)
    assert hashes(tmp_path).keys() == before.keys()
    assert hashes(tmp_path) != before


def test_truncated_zip_is_rendered_anew(tmp_path, serial):
    render(tmp_path)
    before = hashes(tmp_path)
    victim = tmp_path / "subjects_2-3_3_imgs.zip"
    victim.write_bytes(victim.read_bytes()[:-40])
    render(tmp_path)
    assert hashes(tmp_path) == before


def test_hard_linked_output_is_replaced_not_written_through(tmp_path, serial):
    folder, cached = tmp_path / "source", tmp_path / "cached"
    render(folder, range(2))
    (zip_path,) = folder.iterdir()
    os.link(zip_path, cached)
    cached.chmod(0o444)
    before = cached.read_bytes()
    render(folder, range(2), seed=1)
    assert cached.read_bytes() == before != zip_path.read_bytes()


def test_dead_process_is_named_and_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "photograph", fake.dies)
    with pytest.raises(StoreError, match=r"process died.*fetch\.workers"):
        render(tmp_path, range(10))
    assert all(comment(path) for path in tmp_path.iterdir())


def test_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_disk)
    with pytest.raises(OSError, match="No space left"):
        render(tmp_path)
    assert list(tmp_path.iterdir()) == []


KILLED = """
from pathlib import Path
from tests.world import fake
from stages.world import datasets
if __name__ == "__main__":
    datasets.photograph, datasets.warm = fake.slow, fake.warm
    datasets.render_source(Path({folder!r}), "source", range(40), 3, "raster", 8, workers=2, ids_per_zip=2)
"""


def test_killed_run_leaves_no_process_and_goes_on(tmp_path):
    folder, pids = tmp_path / "source", tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(folder=str(folder)))
    root = str(Path(__file__).parents[2])
    run = subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"FAKE_WORLD_PIDS": str(pids), "PYTHONPATH": root},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.zip"))) < 3:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("subjects_*.zip")}
    assert 3 <= len(finished) < 20

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

    render(folder, range(40), workers=2)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    render(tmp_path / "whole", range(40), workers=2)
    assert hashes(folder) == hashes(tmp_path / "whole")


def test_nothing_missing_starts_no_process(tmp_path, serial, monkeypatch):
    render(tmp_path)
    monkeypatch.setattr(datasets, "in_processes", None)
    render(tmp_path)


def test_fingerprint_follows_every_argument():
    base = {"name": "source", "images_per_id": 3, "look": "raster", "size": 8, "seed": 0}
    changes = [{}, {"name": "pretrain"}, {"images_per_id": 4}, {"look": "camera"}, {"size": 9}, {"seed": 1}]
    stamps = [
        source_zips(Path("x"), identities=range(2), ids_per_zip=2, **(base | change))[0].fingerprint
        for change in changes
    ]
    assert len(set(stamps)) == len(changes)


@dataclass(frozen=True)
class Scene:
    """A fake scene that remembers its sample."""

    sample: int


@pytest.fixture
def shy_world(monkeypatch):
    """Renders black squares whose brightness is the sample's; the detector misses samples below 1000."""
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "sample_traits", lambda identity, seed: identity)
    monkeypatch.setattr(datasets, "build_head", lambda traits: traits)
    monkeypatch.setattr(datasets, "sample_scene", lambda identity, sample, seed: Scene(sample))
    monkeypatch.setattr(
        datasets, "render", lambda head, scene, look, size: np.full((size, size, 3), scene.sample % 199, np.uint8)
    )

    def detect(images):
        found = [int(image[0, 0, 0]) in visible for image in images]
        return [Faces(int(yes)) for yes in found]

    visible: set[int] = set()
    monkeypatch.setattr(datasets, "_detector", lambda: SimpleNamespace(detect=detect))
    return visible


class Faces:
    def __init__(self, count: int) -> None:
        self.scores, self.landmarks = np.ones(count), np.arange(10.0).reshape(1, 5, 2).repeat(count, 0)

    def __len__(self) -> int:
        return len(self.scores)


def test_missing_face_is_taken_again_and_counted(shy_world):
    shy_world |= {1, 2000 % 199, 2002 % 199}
    frames = (datasets.as_met, datasets.as_met)
    portrait = Portrait(5, (Shot(0), Shot(1), Shot(2, frames=frames)), "camera", 16, 0, crop="found")
    pictures = datasets.photograph(portrait)
    assert [picture.discarded for picture in pictures] == [2, 0, 4, 0]
    assert [round(decode(picture.encoded).mean()) for picture in pictures] == [2000 % 199, 1, 2002 % 199, 2002 % 199]


def test_person_without_a_face_is_an_error(shy_world):
    with pytest.raises(StoreError, match="identity 5, camera look, 16 px: no face found in 20 scenes"):
        datasets.photograph(Portrait(5, (Shot(0),), "camera", 16, 0, crop="found"))


def test_card_is_gone_while_its_file_is_replaced(tmp_path, serial):
    def write(path, pictures):
        assert not dataset.card.exists()
        path.write_bytes(b"".join(picture.encoded for portrait in pictures for picture in portrait))

    portrait = Portrait(1, (Shot(0), Shot(1)), "raster", 8, 0)
    dataset = datasets.Dataset(tmp_path / "a.bin", "stamp", [portrait], write)
    dataset.card.write_text(json.dumps({"fingerprint": "older"}))
    make([dataset], workers=1)
    assert json.loads(dataset.card.read_text()) == {"fingerprint": "stamp", "images": 2, "discarded": 1}
    assert dataset.is_current()
