"""A training loop that goes on where it was killed, and a result that is made once.

A step may depend on the weights before it and on (seed, step) only: no random state is kept, and a run that was killed
and resumed ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stages.knobs import ParamsError
from stages.store import Entry, adding, find, folder_of, locked, replacing
from stages.store.files import broken
from stages.training.distributed import Ranks

LOOK = 1.0  # seconds between two looks at the losses, for which a GPU has to be waited for
LINES: dict[str, Any] = {  # where there is no terminal to draw a bar in: one every 30 seconds
    "mininterval": 30,
    "maxinterval": 30,
    "bar_format": "{desc}: {n_fmt} of {total_fmt} images, {rate_fmt}, {elapsed}, {remaining} left{postfix}\n",
}

T = TypeVar("T")


class Diverged(ParamsError):
    """A training that has come to nothing: a loss or a weight that is no longer finite, or what `fault` finds.

    Attributes:
        step: the one that shows it.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class Part(Protocol):
    """What a step changes: a model, an optimiser, an average."""

    def state_dict(self) -> Mapping[str, Any]:
        """All of it, as tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Take it back."""


class Loop:
    """The steps of a training that are left to be done, which `for step in loop` goes through.

    Each is followed by one `record` of its losses. A checkpoint is written every so many minutes, and taken up by the
    next loop with this fingerprint; it goes when the result becomes an entry of the cache (`made_once`).

    Args:
        stage: whose training it is.
        key: fingerprint of all that its steps depend on; the caller holds its lock.
        parts: all that a step changes, by name.
        steps: in all.
        names: of what every step records; all of it has to be finite.
        minutes: between checkpoints.
        batch: images of a step, for the bar.
        hint: what to do against divergence.
        title: of the bar; default is the stage.
        ranks: the processes, which go through the same steps; the first says and keeps what there is.
        fault: what is wrong with a step, of the curve so far and its number; nothing for a good one.
        line: more to say of a step, by its number, beside its losses and the share of the time that went by in waiting
            for data (`watched`).

    Raises:
        StoreError: the checkpoint is broken.
        Diverged: (while it runs) a loss, or at a checkpoint or the end a weight, is no longer finite, or a fault.
    """

    def __init__(
        self,
        stage: str,
        key: str,
        parts: Mapping[str, Part],
        steps: int,
        names: Sequence[str] = ("loss",),
        minutes: float = 1.0,
        batch: int = 1,
        hint: str = "",
        title: str = "",
        ranks: Ranks | None = None,
        fault: Callable[[Mapping[str, np.ndarray], int], str | None] = lambda curve, step: None,
        line: Callable[[int], Mapping[str, float]] = lambda step: {},
    ) -> None:
        self.path = folder_of(stage, key) / "checkpoint.pt"
        self.parts, self.steps, self.names, self.minutes = parts, steps, tuple(names), minutes
        self.batch, self.hint, self.title = batch, hint, title or stage
        self.values = torch.zeros(steps, len(self.names))  # of the steps that were looked at
        self._recent: list[Tensor] = []  # of the steps that were not, where they were computed
        self.ranks, self.fault, self.line = ranks or Ranks(), fault, line
        self.seconds = 0.0  # that all runs took together, up to the last checkpoint
        self._waited = 0.0  # seconds, since the last look
        self.start = self._load()
        self.view: Callable[[int, Mapping[str, float]], None] = lambda step, values: None  # of each step

    def __iter__(self) -> Iterator[int]:
        before = self.seconds
        begun = saved = looked = time.monotonic()
        with tqdm(
            desc=self.title,
            initial=self.start * self.batch,
            total=self.steps * self.batch,
            unit=" images",
            smoothing=0.1,
            disable=not self.ranks.first,
            **({} if sys.stderr.isatty() else LINES),
        ) as bar:
            for step in range(self.start, self.steps):
                yield step
                now, last = time.monotonic(), step + 1 == self.steps
                due = self.ranks.tell(now - saved >= 60 * self.minutes)
                if due or last or now - looked >= LOOK or self._recent[-1].device.type == "cpu":
                    self._look(step + 1)
                    share = self._waited / max(now - looked, 1e-9)
                    latest = {name: f"{value:.3g}" for name, value in self._said(step).items()}
                    bar.set_postfix(latest | {"waiting": f"{share:.0%}"}, refresh=False)
                    looked, self._waited = now, 0.0
                bar.update(self.batch)
                if due and not last:
                    self.seconds = before + now - begun
                    self._save(step + 1)
                    saved = time.monotonic()
        self.seconds = before + time.monotonic() - begun
        self._check_weights(self.steps)

    def watched(self, source: Iterable[T]) -> Iterator[T]:
        """The same items; how long the loop waits for them is said."""
        items = iter(source)
        while True:
            asked = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked
            yield item

    def record(self, **values: Tensor | float) -> None:
        """Keep what the step came to, without waiting for a GPU."""
        row = [torch.as_tensor(values[name], dtype=torch.float32).detach() for name in self.names]
        device = max((value.device for value in row), key=lambda device: device.type != "cpu")
        self._recent.append(torch.stack([value.to(device) for value in row]))

    @property
    def curve(self) -> dict[str, np.ndarray]:
        """name -> [steps] float32, of all steps."""
        return {name: self.values[:, column].numpy() for column, name in enumerate(self.names)}

    def means(self, steps: int = 100) -> dict[str, float]:
        """Means over the last steps."""
        return dict(zip(self.names, self.values[-steps:].double().mean(0).tolist(), strict=True))

    def _said(self, step: int) -> dict[str, float]:
        return dict(zip(self.names, self.values[step].tolist(), strict=True)) | dict(self.line(step))

    def _look(self, done: int) -> None:
        rows = torch.stack(self._recent).cpu()
        first = done - len(rows)
        self.values[first:done] = rows
        self._recent.clear()
        for step in range(first, done) if self.ranks.first else ():
            if what := self._not_finite(step) or self.fault(self.curve, step):
                raise Diverged(f"{what} in step {step} of {self.steps}: training diverged. {self.hint}", step)
            self.view(step, self._said(step))

    def _not_finite(self, step: int) -> str | None:
        values = zip(self.names, self.values[step].tolist(), strict=True)
        return next((f"the {name} is {value}" for name, value in values if not math.isfinite(value)), None)

    def _check_weights(self, done: int) -> None:
        for part, values in self.parts.items():
            state = values.state_dict()  # in all processes: some parts are whole in none
            if bad := next((name for name, value in _leaves(state) if not finite(value)), None):
                what = f"{part}: {bad} is not finite after step {done - 1} of {self.steps}"
                raise Diverged(f"{what}: training diverged. {self.hint}", done - 1)

    def _save(self, done: int) -> None:
        """Write the state after `done` steps, whole or not at all; never one that is broken."""
        self._check_weights(done)
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        if self.ranks.first:
            with replacing(self.path) as partial:
                torch.save({"step": done, "values": self.values, "seconds": self.seconds, "parts": parts}, partial)

    def _load(self) -> int:
        """The number of steps done, all taken back as it was after them; 0 where there is no checkpoint."""
        try:
            there = self.ranks.first and self.path.is_file()
            state = torch.load(self.path, map_location="cpu", weights_only=True) if there else None
            if (state := self.ranks.tell(state)) is None:
                return 0
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
            self.values.copy_(state["values"])
            self.seconds = state.get("seconds", 0.0)
            return state["step"]
        except Exception as error:  # torch.load promises no type
            raise broken(self.path, error, "not a readable checkpoint; delete it to train from the start") from error


def finite(value: Any) -> bool:
    """Whether a tensor or number is finite everywhere; other values are."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)


def _leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors and values in a state_dict, by their dotted names."""
    if isinstance(state, Mapping):
        items: Any = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        yield name, state
        return
    for key, value in items:
        yield from _leaves(value, f"{name}.{key}" if name else str(key))


def made_once(stage: str, key: str, name: str, make: Callable[[Path], Mapping[str, float]]) -> Entry:
    """What a training comes to: taken from the cache, or made now; of two that want the same, one waits for the other.

    Args:
        stage: whose it is.
        key: fingerprint of all that it depends on.
        name: of the file or folder, for its suffix.
        make: writes it to the path that it is given, and returns numbers, which are kept beside it.
    """
    with locked(stage, key):
        if entry := find(stage, key):
            return entry
        with adding(stage, key, name) as draft:
            draft.numbers = dict(make(draft.path))
        return draft.entry
