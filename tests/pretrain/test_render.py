import importlib.util
from pathlib import Path

import numpy as np
import pytest

from stages.run import loop
from stages.store import Shard
from stages.world import datasets
from stages.world.portraits import photograph

SCRIPT = Path(__file__).parents[2] / "pretrain" / "render.py"


@pytest.fixture
def render(monkeypatch, tmp_path):
    """The script as a module, two people a shard, rendering in this process and counting what it renders."""
    spec = importlib.util.spec_from_file_location("render", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.rendered = []

    def counted(portrait):
        module.rendered.append(portrait)
        return photograph(portrait)

    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "IDS_PER_SHARD", 2)
    monkeypatch.setattr(datasets, "photograph", counted)
    monkeypatch.setattr(datasets, "executor", lambda workers: loop)
    monkeypatch.chdir(tmp_path)
    return module


def test_a_person_stands_in_both_looks_under_one_number(render):
    render.main("pretrain", Path("data/align"), identities=2, images_per_look=1, seed=0)
    with Shard(Path("data/align/00000.h5")) as shard:
        assert shard["identity"].tolist() == [0, 0, 1, 1]
        assert shard["sample"].tolist() == [0, 1, 0, 1]
        assert shard.image(0).shape == (112, 112, 3)
    assert [portrait.look for portrait in render.rendered] == ["raster", "camera"] * 2
    for row, portrait in enumerate(render.rendered):
        with Shard(Path("data/align/00000.h5")) as shard:
            assert shard.encoded(row) == photograph(portrait)[0].encoded


def test_a_larger_population_renders_the_new_people_alone(render):
    render.main("pretrain", Path("data/align"), identities=2, images_per_look=1, seed=0)
    whole = Path("data/align/00000.h5").read_bytes()
    Path("data/align/00000.h5").unlink()
    render.rendered.clear()
    render.main("pretrain", Path("data/align"), identities=4, images_per_look=1, seed=0)
    assert np.unique([portrait.identity % 10_000_000 for portrait in render.rendered]).tolist() == [2, 3]
    assert Path("data/align/00000.h5").read_bytes() == whole


def test_one_look_alone_starts_at_sample_0(render):
    render.main("generator", Path("out"), identities=2, images_per_look=2, looks="camera")
    with Shard(Path("out/00000.h5")) as shard:
        assert shard["identity"].tolist() == [0, 0, 1, 1]
        assert shard["sample"].tolist() == [0, 1, 0, 1]
    assert [(portrait.look, portrait.identity) for portrait in render.rendered] == [
        ("camera", 50_000_000),
        ("camera", 50_000_001),
    ]
