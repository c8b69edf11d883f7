"""The epoch that a benchmark chooses: in a training, which resumes, and by its rule."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.evaluate.embeddings import load_network
from stages.evaluate.knobs import Evaluate
from stages.evaluate.readers import read_benchmarks
from stages.evaluate.stage import measure
from stages.knobs import ParamsError
from stages.params import Params
from stages.store import encode
from stages.train import validation
from stages.train.backbones import BACKBONES
from stages.train.knobs import Train
from stages.train.networks import IResNet
from stages.train.stage import run
from stages.train.validation import Validation
from stages.training import Loop
from tests.train.conftest import made_up_people

TINY = {"head": "cosface", "margin": 0.1, "scale": 16, "batch_size": 16, "lr": 0.05, "epochs": 4, "threads": 1}
BACKBONE = "data/train/backbone.safetensors"


class Small(IResNet):
    def __init__(self):
        super().__init__((1, 1), widths=(8, 16), stem_stride=4, embedding=16)


def params(**knobs):
    return Params(train=Train(**{**TINY, "device": "cpu", **knobs}))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(BACKBONES, "iresnet_tiny", Small)
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def place(tmp_path, write_aligned):
    """A root by its name, with 80 images, and 40 pairs of other people in data/validation and data/benchmarks."""
    write_aligned(tmp_path / "aligned", made_up_people(range(8), range(10)))
    people = [encode(image, "jpeg") for _, _, image in made_up_people(range(20, 40), range(2), seed=1)]
    sides = [people[2 * k + side] for k in range(20) for side in (0, 1)]
    sides += [people[2 * ((k + side) % 20) + side] for k in range(20) for side in (0, 1)]
    order = np.arange(40).reshape(2, 20).T.ravel()  # genuine and impostor pairs by turns, for the folds
    pairs = ([sides[2 * k + side] for k in order for side in (0, 1)], [bool(k < 20) for k in order])

    def make(name):
        root = tmp_path / name
        for folder in ("validation", "benchmarks"):
            (root / "data" / folder).mkdir(parents=True)
            (root / f"data/{folder}/some.bin").write_bytes(pickle.dumps(pairs, protocol=4))
        (root / "data/align").symlink_to(tmp_path / "aligned")
        return root

    return make


def outcome(root):
    return json.loads((root / "metrics/train.json").read_text()), load_file(root / BACKBONE)


def accuracy(root):
    """As evaluate measures it."""
    network, benchmarks = load_network(root / BACKBONE, device="cpu"), read_benchmarks(root / "data/validation")
    (row,), _ = measure(network, benchmarks, Evaluate(), None)
    return row.accuracy


def test_the_best_epoch_comes_out_and_a_killed_run_finds_it_too(place, monkeypatch, tmp_path):
    """Its weights are those of a training that ends there at a constant learning rate; evaluate sees its accuracy."""
    knobs = {"schedule": "multistep", "validation": "data/validation", "ema": 0.5}
    rates = iter([60.0, 80.0, 80.0, 70.0])
    real = validation.pairs.accuracy
    seen = []

    def planned(*args):
        seen.append(100 * real(*args).mean)
        return SimpleNamespace(mean=next(rates) / 100)

    whole = place("whole")
    with monkeypatch.context() as patch:
        patch.setattr(validation.pairs, "accuracy", planned)
        run(params(**knobs), whole)
    numbers, weights = outcome(whole)
    assert (numbers["epoch"], numbers["validation"], numbers["validation_by_test"]) == (2, 80.0, False)
    assert accuracy(whole) == pytest.approx(seen[1], abs=0.006)
    looks = json.loads((whole / "data/train_provenance.json").read_text())["validation"]
    assert list(looks.values()) == [60.0, 80.0, 80.0, 70.0]

    two = place("two")
    run(params(schedule="multistep", ema=0.5, epochs=2), two)
    assert all(torch.equal(value, weights[name]) for name, value in outcome(two)[1].items())
    assert "epoch" not in outcome(two)[0]

    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "other"))
    rates, save, killed = iter([60.0, 80.0, 80.0, 80.0, 70.0]), Loop._save, place("killed")
    monkeypatch.setattr(validation.pairs, "accuracy", planned)

    def save_and_die(self, done):
        save(self, done)
        if done == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(params(checkpoint_minutes=0.0, **knobs), killed)
    monkeypatch.setattr(Loop, "_save", save)
    run(params(checkpoint_minutes=0.0, **knobs), killed)
    assert (killed / BACKBONE).read_bytes() == (whole / BACKBONE).read_bytes()


def test_a_test_chooses_only_if_asked_and_then_it_is_said(place):
    root = place("a")
    with pytest.raises(ParamsError, match=r"is data/benchmarks/some\.bin, on which the result is tested"):
        run(params(validation="data/benchmarks/some.bin"), root)
    run(params(validation="data/benchmarks/some.bin", validation_by_test=True, validation_epochs=3), root)
    assert outcome(root)[0]["validation_by_test"] is True
    assert list(json.loads((root / "data/train_provenance.json").read_text())["validation"]) == ["3", "4"]


def test_what_is_no_benchmark_of_pairs(place, tmp_path, monkeypatch):
    root = place("a")
    monkeypatch.setattr(validation, "read_benchmarks", lambda path: [SimpleNamespace(name="quality")])
    with pytest.raises(ParamsError, match="quality is not a benchmark of pairs"):
        Validation(params(validation="data/validation").train, root)


def test_several_benchmarks_count_by_their_mean_and_the_first_of_equals_is_kept(place, monkeypatch):
    root = place("a")
    found = Validation(params(validation="data/validation").train, root)
    found.benchmarks = found.benchmarks * 2
    rates = iter([0.5, 0.7, 0.8, 0.6, 0.7, 0.7])
    monkeypatch.setattr(validation.pairs, "accuracy", lambda *args: SimpleNamespace(mean=next(rates)))
    network = Small()
    for epoch in (1, 2, 3):
        nn.init.constant_(network.conv1.weight, epoch)
        found.look(network, "rgb", epoch)
    assert found.accuracy == pytest.approx({1: 60.0, 2: 70.0, 3: 70.0})
    assert found.numbers()["epoch"] == 2
    assert (found.weights["conv1.weight"] == 2).all()
    assert found.digest() != Validation(params(validation="data/validation").train, root).digest()
