import json
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stages import fit, transfer
from stages.images import Archive, read_faces
from stages.knobs import ParamsError, knob, knobs
from stages.params import Params
from stages.store import StoreError, encode, file_digest
from stages.training import Diverged
from stages.transfer import METHODS, knobs_of
from stages.transfer.method import MethodKnobs


@pytest.mark.parametrize("method", [method for method in METHODS if not knobs_of(method).learns])
def test_a_method_that_learns_nothing_leaves_a_word_and_no_more(tmp_path, method):
    (tmp_path / "data/fit").mkdir(parents=True)
    (tmp_path / "data/fit/of_another_method.pt").touch()
    fit.run(Params(method=method), tmp_path)
    for folder in ("data/fit", "plots/fit"):
        (only,) = (tmp_path / folder).iterdir()
        assert only.read_text() == f"method {method} learns nothing\n"
    assert json.loads((tmp_path / "metrics/fit.json").read_text()) == {"images": 0}


@knobs("transfer")
class Knobs(MethodKnobs):
    """A method that learns the target's mean colour."""

    learns: ClassVar[bool] = True

    weights: str = knob("data/fit", "")
    steps: int = knob(8, "")
    batch_size: int = knob(3, "")
    load: int = knob(12, "px")
    crop: int = knob(10, "px")
    lr: float = knob(0.5, "")
    device: str = knob("cpu", "")
    start: str = knob("", "a file with the shift that it begins with")

    def paths(self) -> dict[str, str]:
        return {"weights": self.weights, "start": self.start}


class Learner:
    losses = ("distance",)

    def __init__(self, settings: Knobs, device: torch.device) -> None:
        self.shift = nn.Linear(3, 1, bias=False)  # weights of the start, from torch's generator
        if settings.start:
            nn.init.constant_(self.shift.weight, float(Path(settings.start).read_text()))
        self.optimizer = torch.optim.SGD(self.shift.parameters(), lr=settings.lr, momentum=0.5)
        self.parts = {"shift": self.shift, "optimizer": self.optimizer}

    def step(self, source, target, generator):
        assert source.shape == target.shape == (3, 3, 10, 10)
        noise = torch.rand(3, generator=generator) / 100
        made = source + self.shift.weight[0, :, None, None] + noise[None, :, None, None]
        loss = (made.mean((0, 2, 3)) - target.mean((0, 2, 3))).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"distance": loss}

    def translate(self, images):
        shift = 127.5 * self.shift.weight[0].detach().numpy()
        return np.clip(images + shift, 0, 255).astype(np.uint8)

    def save(self, folder):
        torch.save(self.shift.state_dict(), folder / "shift.pt")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A dark source of 4 x 3 images, a bright target of 9, and the method `toy`."""
    learner = types.ModuleType("stages.transfer.toy.learner")
    learner.Learner, learner.CODE = Learner, ()
    chosen = types.ModuleType("stages.transfer.toy.knobs")
    chosen.Knobs = Knobs
    for module in (types.ModuleType("stages.transfer.toy"), learner, chosen):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(transfer, "METHODS", (*METHODS, "toy"))
    rng = np.random.default_rng(0)
    for place, names, level in (
        ("source/subjects_0-3_3_imgs.zip", [f"{i}/{k}.png" for i in range(4) for k in range(3)], 40),
        ("target/target.zip", [f"{k}.png" for k in range(9)], 180),
    ):
        (tmp_path / "data" / place).parent.mkdir(parents=True)
        with zipfile.ZipFile(tmp_path / "data" / place, "w") as file:
            for name in names:
                file.writestr(name, encode(rng.integers(level, level + 40, (16, 16, 3)).astype(np.uint8)))
    return tmp_path


def params(**changes) -> Params:
    block = fit.Fit(source_images=6, target_images=9, checkpoint_minutes=0.0, threads=1)
    return replace(Params(method="toy", transfer=Knobs(), fit=block), **changes)


def content(root):
    return {path.name: file_digest(path) for folder in ("data/fit", "plots/fit") for path in (root / folder).iterdir()}


def test_what_is_learned_moves_the_source_to_the_target(root):
    fit.run(params(), root)
    assert content(root).keys() == {"shift.pt", "sheet.png", "fit.csv"}
    weight = torch.load(root / "data/fit/shift.pt")["weight"]
    assert (weight > 0.5).all()
    numbers = json.loads((root / "metrics/fit.json").read_text())
    assert (numbers["images"], numbers["steps"], numbers["source_images"], numbers["target_images"]) == (24, 8, 6, 9)
    table = np.genfromtxt(root / "plots/fit/fit.csv", delimiter=",", names=True)
    assert table["distance"][-1] < table["distance"][0] / 4
    with Image.open(root / "plots/fit/sheet.png") as picture:
        rows = np.asarray(picture)
    height = len(rows) // 6  # the source, and after 0, 2, 4, 6 and 8 steps
    levels = [rows[row * height + 30 : row * height + 90, :90].mean() for row in range(6)]
    assert levels[0] < 80 < 150 < levels[-1]


def test_a_killed_run_goes_on_to_the_same_bytes(root, monkeypatch):
    fit.run(params(), root)
    expected = content(root)
    step, done = Learner.step, []

    def killed(self, *batch):
        done.append(1)
        if len(done) == 6:
            raise KeyboardInterrupt
        return step(self, *batch)

    monkeypatch.setattr(Learner, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        fit.run(params(seed=1), root)
    monkeypatch.setattr(Learner, "step", lambda self, *batch: done.append(1) or step(self, *batch))
    fit.run(params(seed=1), root)
    assert len(done) == 6 + 3  # from the checkpoint after the fifth step
    resumed = content(root)
    assert resumed["shift.pt"] != expected["shift.pt"]
    fit.run(params(seed=1, fit=replace(params().fit, threads=2)), root)  # trained anew, and in one go
    assert content(root)["shift.pt"] == resumed["shift.pt"]
    assert content(root)["sheet.png"] == resumed["sheet.png"]


def test_a_setting_that_was_learned_is_not_learned_again(root, monkeypatch):
    fit.run(params(), root)
    expected = content(root)
    monkeypatch.setattr(Learner, "step", lambda *_: pytest.fail("learned again"))
    fit.run(params(), root)
    assert content(root) == expected


def test_a_file_that_a_knob_names_counts_by_its_content(root, monkeypatch):
    for name, start in (("here/start.txt", "0.25"), ("there/start.txt", "0.25"), ("other/start.txt", "0.5")):
        (root / name).parent.mkdir()
        (root / name).write_text(start)
    fit.run(params(transfer=Knobs(start="here/start.txt")), root)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", lambda *_: pytest.fail("learned again"))
        fit.run(params(transfer=Knobs(start="there/start.txt")), root)
        with pytest.raises(pytest.fail.Exception):
            fit.run(params(transfer=Knobs(start="other/start.txt")), root)
    with pytest.raises(StoreError, match=r"none\.txt: transfer\.start names no file"):
        fit.run(params(transfer=Knobs(start="none.txt")), root)


def test_a_loss_that_is_no_number_stops_it_with_the_last_sheet(root):
    with pytest.raises(Diverged, match=r"transfer\.lr"):
        fit.run(params(transfer=Knobs(lr=1e30)), root)
    assert (root / "plots/fit/sheet.png").is_file()
    assert not (root / "metrics/fit.json").exists()


def test_weights_that_are_named_are_not_learned(root):
    fit.run(params(transfer=Knobs(weights="given.pt")), root)
    assert json.loads((root / "metrics/fit.json").read_text()) == {"images": 0}


def test_every_pass_over_the_images_is_a_permutation():
    seen = [number for step in range(9) for number in fit.numbers(6, 4, step, seed=3)]
    passes = [seen[start : start + 6] for start in range(0, 36, 6)]
    assert all(sorted(one) == [*range(6)] for one in passes)
    assert len({tuple(one) for one in passes}) > 3
    assert fit.numbers(6, 4, 5, seed=3) == seen[20:24]
    assert fit.numbers(6, 4, 5, seed=4) != seen[20:24]


def test_what_a_method_is_handed_knows_no_identity(root):
    images = fit.Unlabelled(read_faces(root / "data/source"), 6, 0, "fit.source_images")
    public = {name for name in dir(images) if not name.startswith("_")}
    assert public == {"image", "batch", "digest"}
    batch = images.batch([0, 1], 12, 10, np.random.default_rng(0))
    assert batch.shape == (2, 3, 10, 10)
    assert -1 <= batch.min() < batch.max() <= 1


def test_more_images_than_there_are_is_an_error_with_both_numbers(root):
    with pytest.raises(ParamsError, match=r"fit\.target_images is 10, but .* has 9 images"):
        fit.Unlabelled(Archive(root / "data/target/target.zip"), 10, 0, "fit.target_images")
