import csv
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.knobs import ParamsError
from stages.training import Loop
from stages.training.viewer import viewer

SAID = {0: {"loss": 3.0, "lr": 0.5}, 1: {"loss": 2.0, "lr": 0.25}, 2: {"loss": 1.0, "lr": 0.125}}


def test_tensorboard_and_what_a_killed_run_said_is_replaced(tmp_path):
    for start in (0, 1):
        say = viewer("tensorboard", tmp_path, start)
        for step in range(start, 3):
            say(step, {name: value + start for name, value in SAID[step].items()})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 3.0), (1, 3.0), (2, 2.0)]


def test_dvclive_goes_on(tmp_path):
    for start, stop in ((0, 2), (2, 3)):
        say = viewer("dvclive", tmp_path, start)
        for step in range(start, stop):
            say(step, SAID[step])
    with open(tmp_path / "plots/metrics/loss.tsv") as file:
        assert [(row["step"], row["loss"]) for row in csv.DictReader(file, delimiter="\t")] == [
            ("0", "3.0"),
            ("1", "2.0"),
            ("2", "1.0"),
        ]


def test_one_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dvclive", None)
    with pytest.raises(ParamsError, match=r"train.viewer is dvclive, which is not installed: pip install"):
        viewer("dvclive", tmp_path)


def test_a_loop_tells_it_every_step_once_with_its_line():
    seen = []
    loop = Loop("train", "0" * 64, {}, 3, line=lambda step: {"lr": SAID[step]["lr"]})
    loop.view = lambda step, values: seen.append((step, values))
    for step in loop:
        loop.record(loss=torch.tensor(SAID[step]["loss"]))
    assert seen == list(SAID.items())
