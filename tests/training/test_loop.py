import hashlib
import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch import nn

from stages.store import StoreError, find, folder_of
from stages.training import Average, Diverged, Loop, made_once

KEY = "0" * 64
STEPS = 9


class Killed(BaseException):
    pass


def learn(path=None, kill=None, minutes=0.0, steps=STEPS, spoil=None, killer=None):
    """Fit a line with momentum and an average; its data are those of (seed, step). Stops after step `kill`."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    average = Average(model, 0.9)
    parts = {"model": model, "optimizer": optimizer, "average": average}
    loop = Loop("fit", KEY, parts, steps, ("loss", "size"), minutes, hint="Lower lr")
    for step in loop:
        data = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        loss = (model(data) - data.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model, step)
        if spoil:
            loss = spoil(step, model, loss)
        loop.record(loss=loss, size=model.weight.abs().sum().item())
        if step == kill:
            (killer or _interrupt)()
    if path:
        with path.open("wb") as file:  # by name, torch would write the name into it
            torch.save([model.state_dict(), average.state_dict(), optimizer.state_dict()], file)
    return loop


def _interrupt():
    raise Killed


def made(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def whole(tmp_path):
    loop = learn(tmp_path / "whole.pt", minutes=9.0)
    return made(tmp_path / "whole.pt"), loop


@pytest.mark.parametrize("kill", [1, 4, STEPS - 1])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path, whole, kill):
    with pytest.raises(Killed):
        learn(kill=kill)
    loop = learn(tmp_path / "resumed.pt")
    assert loop.start == kill  # of the step that was killed nothing is kept
    assert made(tmp_path / "resumed.pt") == whole[0]
    for name, values in whole[1].curve.items():
        assert (loop.curve[name] == values).all()
        assert len(values) == STEPS
    assert loop.means(3) == pytest.approx({name: values[-3:].mean() for name, values in loop.curve.items()})


def _kill_yourself():
    os.kill(os.getpid(), signal.SIGKILL)


def _learn_and_die():
    learn(kill=5, killer=_kill_yourself)


def test_sigkill_in_a_process_of_its_own(tmp_path, whole):
    process = multiprocessing.get_context("fork").Process(target=_learn_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert learn(tmp_path / "resumed.pt").start == 5
    assert made(tmp_path / "resumed.pt") == whole[0]


def test_checkpoints_come_every_so_many_minutes(monkeypatch):
    clock = iter(range(0, 10_000, 25))  # seconds, two looks at it a step
    monkeypatch.setattr("stages.training.loop.time.monotonic", lambda: next(clock))
    saved = []
    monkeypatch.setattr(Loop, "_save", lambda self, done: saved.append(done))
    learn(minutes=1.0)
    assert saved == [3, 6]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_its_step(value):
    with pytest.raises(Diverged, match=rf"the loss is {value} in step 4 of 9: training diverged. Lower lr"):
        learn(spoil=lambda step, model, loss: loss * value if step == 4 else loss)
    state = torch.load(folder_of("fit", KEY) / "checkpoint.pt", weights_only=True)
    assert state["step"] == 4  # the last good one
    assert torch.isfinite(state["values"]).all()


def test_weights_that_are_not_finite_at_the_end_stop_too(tmp_path):
    def spoil(step, model, loss):
        if step == STEPS - 1:
            model.bias.data.fill_(float("inf"))
        return loss

    with pytest.raises(Diverged, match=r"model: bias is not finite after step 8 of 9"):
        learn(tmp_path / "bad.pt", minutes=9.0, spoil=spoil)
    assert not (tmp_path / "bad.pt").exists()


def test_no_checkpoint_holds_weights_that_are_not_finite():
    def spoil(step, model, loss):
        if step == 3:
            model.bias.data.fill_(float("nan"))
        return loss

    with pytest.raises(Diverged, match="model: bias is not finite after step 3"):
        learn(spoil=spoil)
    assert torch.load(folder_of("fit", KEY) / "checkpoint.pt", weights_only=True)["step"] == 3


def test_a_fault_stops_with_what_it_is_and_its_step():
    def fault(curve, step):
        assert len(curve["loss"]) == STEPS
        return "the loss is odd" if step == 5 and curve["loss"][5] else None

    def go():
        loop = Loop("fit", KEY, {}, STEPS, fault=fault, hint="Lower lr")
        for _ in loop:
            loop.record(loss=1.0)

    with pytest.raises(Diverged, match=r"the loss is odd in step 5 of 9: training diverged. Lower lr") as error:
        go()
    assert error.value.step == 5


def test_a_line_says_all_and_how_long_it_waits_for_data(monkeypatch, capfd):
    now = [0.0]
    monkeypatch.setattr("stages.training.loop.time.monotonic", lambda: now[0])

    def data():
        for _ in range(STEPS):
            now[0] += 1.0  # to wait for
            yield 0

    loop = Loop("fit", KEY, {}, STEPS, batch=4, title="learn", line=lambda step: {"lr": step / 100})
    feed = loop.watched(data())
    for _ in loop:
        next(feed)
        now[0] += 3.0  # to work on
        loop.record(loss=2.5)
    assert list(feed) == []
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("learn: 36 of 36 images, ")
    assert last.endswith("left, loss=2.5, lr=0.08, waiting=25%")
    assert loop.seconds == 4.0 * STEPS


def test_the_seconds_of_all_runs_add_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("stages.training.loop.time.monotonic", lambda: now[0])

    def run(stop):
        loop = Loop("fit", KEY, {}, STEPS, minutes=0.0)
        for step in loop:
            if step == stop:
                break
            now[0] += 2.0
            loop.record(loss=1.0)
        return loop

    run(4)
    now[0] += 100.0
    assert run(None).seconds == 2.0 * STEPS


def test_a_broken_checkpoint_says_so():
    with pytest.raises(Killed):
        learn(kill=4)
    path = folder_of("fit", KEY) / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"checkpoint\.pt: not a readable checkpoint; delete it"):
        learn()


def test_no_steps_is_no_training(tmp_path):
    assert learn(tmp_path / "none.pt", steps=0).curve["loss"].shape == (0,)


def test_a_result_is_made_once_and_its_checkpoint_goes():
    calls = []

    def make(path):
        calls.append(1)
        with pytest.raises(Killed):
            learn(kill=3)
        assert folder_of("fit", KEY).is_dir()
        path.write_text("made")
        return {"loss": 1.5}

    first, second = (made_once("fit", KEY, "model.txt", make) for _ in range(2))
    assert first == second
    assert (first.path.read_text(), first.numbers, len(calls)) == ("made", {"loss": 1.5}, 1)
    assert not (folder_of("fit", KEY) / "checkpoint.pt").exists()


def test_a_result_that_failed_leaves_its_checkpoint():
    with pytest.raises(Killed):
        made_once("fit", KEY, "model.txt", lambda path: learn(path, kill=5))
    assert find("fit", KEY) is None
    assert learn().start == 5


def _until(true):
    """Wait for another process, but not for ever."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "the other process never got there"
        time.sleep(0.01)


def _slowly(path):
    (path.parent.parent / "begun").touch()
    _until((path.parent.parent / "waits").exists)
    path.write_text(str(os.getpid()))
    return {}


def _never(path):
    raise AssertionError("made twice")


def _process(make):
    process = multiprocessing.get_context("fork").Process(target=made_once, args=("fit", KEY, "model.txt", make))
    process.start()
    return process


def test_of_two_that_want_the_same_the_second_waits_and_takes_it(cache, capfd):
    first = _process(_slowly)
    _until((cache / "fit/begun").exists)
    second = _process(_never)
    _until(lambda: not second.is_alive() or "waiting for it" in capfd.readouterr().err)
    (cache / "fit/waits").touch()
    first.join()
    second.join()
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert find("fit", KEY).path.read_text() == str(first.pid)
