"""The charts of the page."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.store import StoreError

COLOURS = ("#2f6690", "#d1803c", "#4d8b5b", "#a34a5f", "#7a6bb0", "#6f7a85", "#b59a2b", "#3fa0a8")

Curve = Mapping[str, np.ndarray]  # a CSV's columns, [n] float64 each


def read_csv(path: Path) -> Curve:
    """Read a table of numbers.

    Raises:
        StoreError: no such file, or it holds something else.
    """
    try:
        with path.open(newline="") as file:
            head, *rows = csv.reader(file)
        columns = np.array(rows, np.float64).reshape(-1, len(head)).T
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: not a readable table of numbers ({error}); run the stages before the report"
        ) from error
    return dict(zip(head, columns, strict=True))


def draw_training(curve: Curve) -> Figure:
    """Loss, training accuracy and learning rate over the epochs."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    panels = {"loss": "loss", "accuracy": "training accuracy (%)", "lr": "learning rate"}
    rows = figure.subplots(len(panels), 1, sharex=True, height_ratios=(3, 3, 1.6))
    for axes, (name, label), colour in zip(rows, panels.items(), COLOURS, strict=False):
        axes.plot(curve["epoch"], curve[name], color=colour, linewidth=1.3)
        axes.set_ylabel(label)
        _plain(axes)
    rows[-1].set_xlabel("epoch")
    return figure


def draw_roc(curves: Mapping[str, Curve]) -> Figure:
    """True accept rate over false accept rate, the latter on a log axis."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02))
    for number, (name, curve) in enumerate(curves.items()):
        shown = curve["fpr"] > 0
        style = "-" if number < len(COLOURS) else "--"
        axes.plot(curve["fpr"][shown], curve["tpr"][shown], style, color=COLOURS[number % len(COLOURS)], label=name)
    _plain(axes)
    figure.legend(frameon=False, fontsize="small", loc="outside upper left", ncols=4)
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(color="#e6eaee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
