"""Sheets of images and charts of numbers: one painter of each, equal input giving equal bytes.

Images are [h, w, 3] uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.store import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE = 96  # px
GAP, LINE = 2, 16  # px between tiles; px of a line of text
INK = "#333"
LETTERS = 12  # of a legend, in an inch
COLOURS = ("#2f6690", "#d1803c", "#4d8b5b", "#a34a5f", "#7a6bb0", "#6f7a85", "#b59a2b", "#3fa0a8")


def sheet(
    rows: Mapping[str, Sequence[np.ndarray]],
    tile: int = TILE,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> np.ndarray:
    """A row of images under each title; images of any shape, scaled to `tile` px of height.

    Args:
        rows: title -> images, which may be none.
        tile: px.
        captions: title -> a line below each of its images.
    """
    captions = captions or {}
    scaled = {title: [_scaled(image, tile) for image in images] for title, images in rows.items()}
    width = max([sum(image.shape[1] + GAP for image in images) for images in scaled.values()] + [200])
    heights = [LINE + tile + (LINE if captions.get(title) else 0) + 2 * GAP for title in scaled]
    page = Image.new("RGB", (width, max(sum(heights), LINE)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    top = 0
    for (title, images), height in zip(scaled.items(), heights, strict=True):
        pen.text((1, top + 1), title, INK, font)
        left = 0
        for image, caption in zip(images, [*captions.get(title, [])] or [""] * len(images), strict=True):
            page.paste(Image.fromarray(image), (left, top + LINE))
            pen.text((left + 1, top + LINE + tile + 1), caption, INK, font)
            left += image.shape[1] + GAP
        top += height
    return np.asarray(page)


def _scaled(image: np.ndarray, height: int) -> np.ndarray:
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrinks = height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a PNG, moved into place."""
    with replacing(path) as partial:
        Image.fromarray(image).save(partial, "png")


@dataclass(frozen=True)
class Panel:
    """Curves on common axes.

    Attributes:
        curves: label -> x [n] and y [n], or of a histogram its edges [n + 1] and heights [n].
        x, y: what stands at the axes.
        log: the axes with a logarithmic scale, `x`, `y` or `xy`, on which only what is above 0 is shown.
        marks: label -> x of a vertical line.
        dots: points without lines, on axes without numbers.
        height: share of the chart's height, beside other panels.
    """

    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
    x: str = ""
    y: str = ""
    log: str = ""
    marks: Mapping[str, float] = field(default_factory=dict)
    dots: bool = False
    height: float = 1


def chart(panels: Sequence[Panel], title: str = "", size: tuple[float, float] = (7, 5)) -> Figure:
    """Panels one below the other, over a common x where they are several; one legend of all labels that are not empty.

    Args:
        panels: from top to bottom.
        title: above them.
        size: width and height in inches.
    """
    from matplotlib.figure import Figure  # here: it takes a third of a second to load

    figure = Figure(figsize=size, dpi=100, layout="constrained")
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[one.height for one in panels])
    colour = 0
    for panel, axes in zip(panels, rows[:, 0], strict=True):
        axes.set(ylabel=panel.y, **{f"{axis}scale": "log" for axis in panel.log})
        axes.grid(color="#e6eaee", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if panel.dots:
            axes.set(xticks=[], yticks=[])
        for label, (x, y) in panel.curves.items():
            look = {"color": COLOURS[colour % len(COLOURS)], "label": label or None}
            if len(x) == len(y) + 1:
                axes.stairs(y, x, fill=True, alpha=0.6, **look)
            elif panel.dots:
                axes.scatter(x, y, s=6, linewidths=0, **look)
            else:
                shown = ((x > 0) | ("x" not in panel.log)) & ((y > 0) | ("y" not in panel.log))
                axes.plot(x[shown], y[shown], "-" if colour < len(COLOURS) else "--", linewidth=1.3, **look)
            colour += 1
        for label, place in panel.marks.items():
            axes.axvline(place, color="#b5482f", linestyle="--", linewidth=1, label=label)
    axes.set_xlabel(panels[-1].x)
    rows[0, 0].set_title(title, fontsize="medium")
    if labels := [label for axes in rows[:, 0] for label in axes.get_legend_handles_labels()[1]]:
        columns = max(1, int(size[0] * LETTERS / (max(map(len, labels)) + 8)))
        figure.legend(frameon=False, fontsize="small", loc="outside upper left", ncols=columns, markerscale=2)
    return figure


def save_chart(path: Path, figure: Figure) -> None:
    """Write a chart as PNG, moved into place."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
