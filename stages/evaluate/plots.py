"""Curves, histograms and picture sheets; equal numbers give equal bytes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from stages.evaluate.metrics import Roc
from stages.store import replacing

POINTS = 500  # of a curve in a file
BINS = np.linspace(-1, 1, 101)  # of the score histogram, cosines


def write_roc_csv(path: Path, roc: Roc) -> None:
    """Columns fpr, tpr, threshold: corners of the curve, at most `POINTS`, half of them evenly spaced in log FAR."""
    corners = roc.corners
    if len(corners) > POINTS:
        wanted = np.geomspace(1 / max(roc.impostors, 1), 1, POINTS // 2)
        by_far = np.minimum(np.searchsorted(roc.far[corners], wanted), len(corners) - 1)
        evenly = np.linspace(0, len(corners) - 1, POINTS // 2).astype(int)
        corners = corners[np.unique(np.r_[by_far, evenly])]
    columns = (roc.far[corners], roc.tar[corners], roc.thresholds[corners])
    _write_csv(path, ("fpr", "tpr", "threshold"), zip(*columns, strict=True))


def write_scores_csv(path: Path, scores: np.ndarray, same: np.ndarray) -> None:
    """Columns score, genuine, impostor: the share in % of the genuine and of the impostor pairs from a score on."""
    genuine, impostor = _shares(scores, same)
    _write_csv(path, ("score", "genuine", "impostor"), zip(BINS[:-1], genuine, impostor, strict=True))


def _shares(scores: np.ndarray, same: np.ndarray) -> list[np.ndarray]:
    clipped = np.clip(scores, -1, 1)
    counts = (np.histogram(clipped[chosen], BINS)[0] for chosen in (same, ~same))
    return [100 * count / max(count.sum(), 1) for count in counts]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([f"{value:.6g}" for value in row] for row in rows)


def draw_roc(path: Path, curves: Mapping[str, Roc]) -> None:
    """TAR over FAR, FAR on a log axis."""
    figure = Figure(figsize=(7, 5), dpi=100)
    axes = figure.add_subplot(xscale="log", xlabel="FAR", ylabel="TAR", ylim=(0, 1.01), title="ROC")
    for name, roc in curves.items():
        axes.plot(
            roc.far[roc.corners], roc.tar[roc.corners], label=f"{name} (AUC {100 * roc.auc():.2f} %)", linewidth=1.2
        )
    _finish(figure, path)


def draw_det(path: Path, curves: Mapping[str, Roc]) -> None:
    """FRR = 1 - TAR over FAR, both on log axes."""
    figure = Figure(figsize=(7, 5), dpi=100)
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="FAR", ylabel="FRR", title="DET")
    for name, roc in curves.items():
        axes.plot(
            roc.far[roc.corners], 1 - roc.tar[roc.corners], label=f"{name} (EER {100 * roc.eer():.2f} %)", linewidth=1.2
        )
    _finish(figure, path)


def draw_scores(path: Path, name: str, scores: np.ndarray, same: np.ndarray) -> None:
    """Histogram of the genuine and of the impostor scores."""
    figure = Figure(figsize=(7, 4), dpi=100)
    axes = figure.add_subplot(xlabel="cosine similarity", ylabel="share of the pairs (%)", title=name)
    for shares, label in zip(_shares(scores, same), ("genuine", "impostor"), strict=True):
        axes.stairs(shares, BINS, label=label, fill=True, alpha=0.5)
    _finish(figure, path)


def _finish(figure: Figure, path: Path) -> None:
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.13, top=0.92)
    (axes,) = figure.axes
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def draw_pairs(path: Path, rows: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, float]]]) -> None:
    """A sheet of pairs: for each title a row of (image, image, score), the two images one above the other.

    Images are [h, w, 3] uint8 RGB of one size.
    """
    margin, text = 6, 16
    shown = [pair for pairs in rows.values() for pair in pairs]
    height, width = shown[0][0].shape[:2] if shown else (0, 0)
    columns = max((len(pairs) for pairs in rows.values()), default=0)
    row_height = 2 * text + 2 * height + 2 * margin
    sheet = Image.new(
        "RGB", (max(columns * (width + margin) + margin, 200), max(len(rows) * row_height, text)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for row, (title, pairs) in enumerate(rows.items()):
        top = row * row_height
        draw.text((margin, top + 2), title, fill="black")
        for column, (left, right, score) in enumerate(pairs):
            x = margin + column * (width + margin)
            sheet.paste(Image.fromarray(left), (x, top + text))
            sheet.paste(Image.fromarray(right), (x, top + text + height))
            draw.text((x, top + text + 2 * height + 2), f"{score:.3f}", fill="black")
    with replacing(path) as partial:
        sheet.save(partial, "PNG")
