"""Adding a method is one folder, one file of conf/method and one line: shown by one that inverts colours."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import stages.transfer
from stages import fit, gap, judge, synthesize
from stages.align import stage as align
from stages.images import Shards
from stages.params import Params, ParamsError, compose, load
from stages.run.machine import Machine
from stages.store import encode, write_shard
from stages.transfer.arc2face.method import Method
from tests.transfer.arc2face.tiny import pipeline, write_embeddings

CONF = Path(__file__).parents[2] / "conf"
KNOBS = """
from stages.knobs import knob, knobs
from stages.transfer.method import MethodKnobs


@knobs("transfer")
class Knobs(MethodKnobs):
    weights: str = knob("data/fit", "of a method that learns")
    white: int = knob(255, "what black becomes", ge=0, le=255)
"""
METHOD = """
from stages.transfer.pixels import PixelMethod


class Method(PixelMethod):
    code = ("transfer/toy/method",)

    def load(self):
        return lambda images: self.knobs.white - images
"""
YAML = """# @package _global_
method: toy
images_per_id: 2

transfer:
  weights: data/fit
  white: 255
"""


@pytest.fixture
def toy(code, tmp_path, monkeypatch):
    """The folder, the line and the file, in copies; gives the composer of params.yaml."""
    code.add("transfer/toy/__init__", '"""Inverts colours."""\n')
    code.add("transfer/toy/knobs", KNOBS)
    code.add("transfer/toy/method", METHOD)
    code.add("transfer/__init__", 'METHODS = (*METHODS, "toy")\n')
    monkeypatch.setattr(stages.transfer, "__path__", [*stages.transfer.__path__, str(code.folder / "transfer")])
    monkeypatch.setattr(stages.transfer, "METHODS", (*stages.transfer.METHODS, "toy"))
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (conf / "method/toy.yaml").write_text(YAML)

    def composed(*overrides: str) -> Params:
        path = tmp_path / "params.yaml"
        path.write_text(compose(["profile=smoke", "method=toy", "images_per_id=2", *overrides], conf))
        return load(path)

    yield composed
    for name in [name for name in sys.modules if name.startswith("stages.transfer.toy")]:
        del sys.modules[name]


@pytest.fixture
def root(tmp_path):
    """Source images of four identities, three of each, two of which are asked for."""
    identity, sample = np.repeat([3, 4, 8, 9], 3), np.tile(np.arange(3), 4)
    noise = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), np.uint8)
    write_shard(tmp_path / "data/source/0.h5", {"identity": identity, "sample": sample}, list(map(encode, noise)))
    write_shard(
        tmp_path / "data/filter.h5", {"identity": np.array([9, 3, 8, 4]), "chosen": np.array([1, 1, 1, 0], bool)}
    )
    (tmp_path / "data/target/images").mkdir(parents=True)
    shutil.make_archive(str(tmp_path / "data/target/target"), "zip", _images(tmp_path / "data/target/images", noise))
    shutil.copytree(CONF.parent / "stages/embed", tmp_path / "stages/embed", ignore=shutil.ignore_patterns("*.py"))
    return tmp_path


def _images(folder: Path, images: np.ndarray) -> Path:
    for number, image in enumerate(images):
        (folder / f"{number}.png").write_bytes(encode(255 - image))
    return folder


def metrics(root, stage: str) -> dict[str, float]:
    return json.loads((root / f"metrics/{stage}.json").read_text())


def test_its_block_stands_in_params_yaml_and_nobody_elses_does(toy):
    params = toy("transfer.white=9")
    assert (params.method, params.images_per_id, params.transfer.white) == ("toy", 2, 9)
    with pytest.raises(ParamsError, match=r"transfer\.white is 256: at most 255"):
        toy("transfer.white=256")
    with pytest.raises(ParamsError, match=r"transfer\.steps: no such knob"):
        toy("+transfer.steps=3")


def test_all_stages_take_it_as_it_comes(toy, root):
    params = toy("align.missing=keep", "synthesize.workers=1", "judge.ids=2", "n_ids=3")
    for stage in (gap, fit, synthesize, judge, align):
        stage.run(params, root)
    assert metrics(root, "gap") == metrics(root, "fit") == {"images": 0}
    source, made = Shards(root / "data/source"), Shards(root / "data/synthesize")
    assert list(zip(made.identity.tolist(), made.sample.tolist(), strict=True)) == [
        (i, k) for i in (3, 8, 9) for k in (0, 1)
    ]
    for row in range(len(made)):
        original = source.rows(int(made.identity[row]))[int(made.sample[row])]
        np.testing.assert_array_equal(made.image(row), 255 - source.image(original))
    assert {path.name for path in (root / "plots/synthesize").iterdir()} == {"sheet.png"}
    assert metrics(root, "synthesize").keys() == {"identities", "images", "bytes_per_image"}  # it has no t
    judged = metrics(root, "judge")
    assert (judged["judged_identities"], judged["judged_images"]) == (2, 4)
    assert -1 <= judged["identity_consistency"] <= 1
    assert metrics(root, "align")["written"] == 6
    work = synthesize.cost(params, root, Machine())
    assert work is not None
    assert work.what == "6 images"


def test_only_what_changed_is_made_again(toy, root, code, monkeypatch):
    from stages.transfer.pixels import PixelMethod

    fit.run(toy(), root)
    portraits, made = PixelMethod.portraits, []
    monkeypatch.setattr(
        PixelMethod, "portraits", lambda self, identity: made.append(identity) or portraits(self, identity)
    )

    def again(*overrides: str) -> list[int]:
        made.clear()
        synthesize.run(toy("synthesize.workers=1", *overrides), root)
        return sorted(made)

    assert again() == [3, 8, 9]
    code.add("transfer/toy/method", "# a remark\n")
    assert again("alpha=1", "seed=3", "gap.weight=0", "filter.score=mean", "synthesize.ids_per_shard=2") == []
    assert again("transfer.white=200") == [3, 8, 9]
    code.add("transfer/toy/method", "X = 1\n")
    assert again() == [3, 8, 9]


def test_arc2face_does_not_notice_it(request, tmp_path):
    pipeline().save_pretrained(tmp_path / "generator")
    write_embeddings(tmp_path)
    arc2face = stages.transfer.knobs_of("arc2face")
    params = Params(method="arc2face", transfer=arc2face(weights="generator"))
    params = replace(params, gap=replace(params.gap, weight=0.0))
    request.getfixturevalue("code")
    before = Method(params, tmp_path).origin(101)
    request.getfixturevalue("toy")
    assert Method(params, tmp_path).origin(101) == before


def test_threads_of_a_cpu_are_the_knobs(root, toy, monkeypatch):
    """What one method says of threads, all image-to-image methods do, before they load their network."""
    (root / "data/fit").mkdir(parents=True)
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    method = stages.transfer.create(toy(), root, "cpu")
    assert seen == []
    method.portraits(3)
    assert seen == [method.knobs.threads] == [1]
