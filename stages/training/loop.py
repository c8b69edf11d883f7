"""A training loop that goes on where it was killed, and a result that is made once.

A step may depend on the weights before it and on (seed, step) only: no random state is kept, and a run that was killed
and resumed ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stages.knobs import ParamsError
from stages.store import Entry, adding, find, folder_of, locked, replacing
from stages.store.files import broken

LOOK = 1.0  # seconds between two looks at the losses, for which a GPU has to be waited for


class Diverged(ParamsError):
    """A loss or a weight that is no longer finite."""


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

    Raises:
        StoreError: the checkpoint is broken.
        Diverged: (while it runs) a loss, or at a checkpoint or the end a weight, is no longer finite.
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
    ) -> None:
        self.path = folder_of(stage, key) / "checkpoint.pt"
        self.parts, self.steps, self.names, self.minutes = parts, steps, tuple(names), minutes
        self.batch, self.hint, self.title = batch, hint, title or stage
        self.values = torch.zeros(steps, len(self.names))  # of the steps that were looked at
        self._recent: list[Tensor] = []  # of the steps that were not, where they were computed
        self.start = self._load() if self.path.is_file() else 0

    def __iter__(self) -> Iterator[int]:
        saved = looked = time.monotonic()
        with tqdm(
            desc=self.title,
            initial=self.start * self.batch,
            total=self.steps * self.batch,
            unit=" images",
            smoothing=0.1,
        ) as bar:
            for step in range(self.start, self.steps):
                yield step
                bar.update(self.batch)
                now, last = time.monotonic(), step + 1 == self.steps
                due = now - saved >= 60 * self.minutes
                if due or last or now - looked >= LOOK or self._recent[-1].device.type == "cpu":
                    self._look(step + 1)
                    bar.set_postfix(self._latest(step), refresh=False)
                    looked = now
                if due and not last:
                    self._save(step + 1)
                    saved = time.monotonic()
        self._check_weights(self.steps)

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

    def _latest(self, step: int) -> dict[str, str]:
        return {name: f"{value:.3g}" for name, value in zip(self.names, self.values[step].tolist(), strict=True)}

    def _look(self, done: int) -> None:
        rows = torch.stack(self._recent).cpu()
        first = done - len(rows)
        self.values[first:done] = rows
        self._recent.clear()
        bad = (~torch.isfinite(rows)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise Diverged(
                f"the {self.names[column]} is {rows[row, column].item()} in step {first + row} of {self.steps}: "
                f"training diverged. {self.hint}"
            )

    def _check_weights(self, done: int) -> None:
        for part, values in self.parts.items():
            if bad := next((name for name, value in _leaves(values.state_dict()) if not finite(value)), None):
                raise Diverged(
                    f"{part}: {bad} is not finite after step {done - 1} of {self.steps}: training diverged. {self.hint}"
                )

    def _save(self, done: int) -> None:
        """Write the state after `done` steps, whole or not at all; never one that is broken."""
        self._check_weights(done)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        with replacing(self.path) as partial:
            torch.save({"step": done, "values": self.values, "parts": state}, partial)

    def _load(self) -> int:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
            self.values.copy_(state["values"])
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
