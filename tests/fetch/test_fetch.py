import json

import pytest

from stages import fetch
from stages.fetch.digiface import Source
from stages.fetch.images import ImageArchive
from stages.params import Fetch, Params, ParamsError
from stages.world import datasets
from tests.world import fake

KNOBS = Fetch(
    source_images_per_id=2,
    source_ids_per_zip=3,
    target_ids=3,
    target_images_per_id=2,
    pairs=40,
    templates=2,
    group_pairs=40,
    workers=2,
)
PARAMS = Params(n_ids=5, images_per_id=2, fetch=KNOBS)


@pytest.fixture(autouse=True)
def fake_world(monkeypatch):
    monkeypatch.setattr(datasets, "photograph", fake.photograph)
    monkeypatch.setattr(datasets, "in_processes", fake.in_this_process)


def test_everything_is_there_and_counted(tmp_path):
    fetch.run(PARAMS, tmp_path)
    assert Source(tmp_path / "data/source").identities.tolist() == list(range(9))  # ceil(1.25 * 5) = 7, in whole zips
    assert len(ImageArchive(tmp_path / "data/target/target.zip")) == 6
    metrics = json.loads((tmp_path / "metrics/fetch.json").read_text())
    assert (metrics["source_identities"], metrics["source_images"]) == (9, 18)
    assert (metrics["target_identities"], metrics["target_images"]) == (3, 6)
    for name in ("random", "pose", "profile", "age", "random-raster"):
        assert (tmp_path / f"data/benchmarks/{name}.bin").is_file()
        assert metrics[f"{name}_images"] == 40
    assert metrics["groups_images"] == 160
    assert metrics["quality_images"] == 14
    assert metrics["quality_replaced"] == 2 * 4


def test_second_run_touches_nothing_but_the_metrics(tmp_path):
    fetch.run(PARAMS, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    metrics = (tmp_path / "metrics/fetch.json").read_bytes()
    (tmp_path / "metrics/fetch.json").unlink()
    fetch.run(PARAMS, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before
    assert (tmp_path / "metrics/fetch.json").read_bytes() == metrics


def test_too_few_images_stop_before_anything_is_written(tmp_path):
    with pytest.raises(ParamsError, match=r"images_per_id is 3.*source_images_per_id = 2"):
        fetch.run(Params(n_ids=5, images_per_id=3, fetch=KNOBS), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", [{"pairs": 20}, {"pairs": 50}, {"group_pairs": 30}, {"templates": 1}, {"workers": -1}]
)
def test_impossible_knobs(change):
    (name,) = change
    with pytest.raises(ParamsError, match=rf"fetch\.{name} is"):
        Fetch(**change)
