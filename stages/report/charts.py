"""Charts that the page draws itself: places in a drawing, made of numbers; `templates/chart.html` is the drawing.

A curve keeps its numbers, for the script that reads them off under the mouse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 600, 370  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 72, 14, 10, 50  # of them, beside the axes
COLOURS = 8  # of the style sheet; then they come again, dashed
LINEAR, LOG = False, True

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Axis:
    """Of a chart: from `low` to `high`, from one place of the drawing to another."""

    label: str
    low: float
    high: float
    log: bool
    first: float
    last: float

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where values [n] stand; what lies beyond the ends stands at the ends."""
        scale = np.log10 if self.log else np.asarray
        low, high = scale(self.low), scale(self.high)
        share = (scale(np.clip(values, self.low, self.high)) - low) / (high - low)
        return self.first + share * (self.last - self.first)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts: powers of ten, with 2 and 5 times them where they are few, or some round numbers."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            values = [10.0**power for power in powers]
            if len(values) < 3:
                every = [digit * 10.0 ** (power - 1) for power in (*powers, powers.stop) for digit in (1, 2, 5)]
                values = [value for value in every if self.low * 0.999 <= value <= self.high * 1.001]
        else:
            raw = (self.high - self.low) / 6
            unit = 10.0 ** math.floor(math.log10(raw))
            step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
            values = [step * n for n in range(math.ceil(self.low / step - 1e-9), int(self.high / step + 1e-9) + 1)]
        return [(round(float(self.place(np.array(value))), 1), f"{value:g}") for value in values]


@dataclass(frozen=True)
class Line:
    """A curve: its label, its number in the chart, its points in the drawing, and its numbers as `[x, y]`."""

    label: str
    number: int
    points: str
    numbers: list[list[float]]

    @property
    def look(self) -> str:
        """Its classes in the style sheet."""
        return f"c{self.number % COLOURS}" + (" dashed" if self.number >= COLOURS else "")


@dataclass(frozen=True)
class Chart:
    """Curves on common axes.

    Attributes:
        name: of it in the page, one word.
        title: what it shows.
        lines: its curves.
        x, y: the axes.
        steps: whether a curve keeps its value up to its next point.
    """

    name: str
    title: str
    lines: list[Line]
    x: Axis
    y: Axis
    steps: bool

    width, height = WIDTH, HEIGHT


def chart(
    name: str,
    title: str,
    curves: Curves,
    x: tuple[str, bool],
    y: tuple[str, bool],
    *,
    steps: bool = False,
    ends: tuple[float | None, float | None] = (None, None),
) -> Chart:
    """Lay out curves: label -> x [n] and y [n], which share no other scale than their axes.

    Args:
        name: of the chart, one word.
        title: what it shows.
        curves: at least one.
        x, y: label, and whether the scale is logarithmic; then what is not above 0 stands at the lower end.
        steps: draw a curve in steps, each point's y up to the next point's x.
        ends: of y, where they are not those of the numbers.
    """
    xs, ys = (np.concatenate([curve[axis] for curve in curves.values()]) for axis in (0, 1))
    across = Axis(x[0], *_ends(xs, x[1]), x[1], LEFT, WIDTH - RIGHT)
    low, high = _ends(ys, y[1])
    up = Axis(
        y[0], low if ends[0] is None else ends[0], high if ends[1] is None else ends[1], y[1], HEIGHT - BOTTOM, TOP
    )
    lines = []
    for number, (label, (of_x, of_y)) in enumerate(curves.items()):
        drawn_x, drawn_y = (of_x.repeat(2)[1:], of_y.repeat(2)[:-1]) if steps else (of_x, of_y)
        places = zip(across.place(drawn_x), up.place(drawn_y), strict=True)
        points = list(dict.fromkeys(f"{a:.1f},{b:.1f}" for a, b in places))
        numbers = [[float(f"{value:.4g}") for value in column] for column in (of_x, of_y)]
        lines.append(Line(label, number, " ".join(points), numbers))
    return Chart(name, title, lines, across, up, steps)


def _ends(values: np.ndarray, log: bool) -> tuple[float, float]:
    shown = values[values > 0] if log else values
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.1, 1.0)
    if low == high:
        low, high = (low / 10, high) if log else (low - 0.5, high + 0.5)
    return low, high
