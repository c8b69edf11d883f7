"""Tables, curves, histograms and sheets of scored pairs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.evaluate.metrics import Roc
from stages.evaluate.pairs import GRID, Accuracy
from stages.pictures import Panel, chart, save_chart, save_png, sheet
from stages.store import replacing

POINTS = 500  # of a curve in a file
BINS = np.linspace(-1, 1, 101)  # of the score histogram, cosines

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # label -> FAR [k], TAR [k]


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


def write_folds_csv(path: Path, accuracy: Accuracy) -> None:
    """Columns threshold (squared distance), fpr, tpr: insightface's curve, the mean over the folds."""
    columns = (GRID, accuracy.fpr, accuracy.tpr)
    _write_csv(path, ("threshold", "fpr", "tpr"), zip(*columns, strict=True))


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


def roc_panel(curves: Curves) -> Panel:
    """TAR over FAR."""
    return Panel(curves, "false accept rate (FAR)", "true accept rate (TAR)", log="x")


def det_panel(curves: Curves) -> Panel:
    """FRR = 1 - TAR over FAR."""
    frr = {label: (far, 1 - tar) for label, (far, tar) in curves.items()}
    return Panel(frr, "false accept rate (FAR)", "false reject rate (FRR)", log="xy")


def draw_roc(path: Path, curves: Mapping[str, Roc]) -> None:
    """TAR over FAR."""
    labelled = {f"{name} (AUC {100 * roc.auc():.2f} %)": _corners(roc) for name, roc in curves.items()}
    save_chart(path, chart([roc_panel(labelled)], "ROC"))


def draw_det(path: Path, curves: Mapping[str, Roc]) -> None:
    """FRR over FAR."""
    labelled = {f"{name} (EER {100 * roc.eer():.2f} %)": _corners(roc) for name, roc in curves.items()}
    save_chart(path, chart([det_panel(labelled)], "DET"))


def _corners(roc: Roc) -> tuple[np.ndarray, np.ndarray]:
    return roc.far[roc.corners], roc.tar[roc.corners]


def draw_scores(path: Path, name: str, scores: np.ndarray, same: np.ndarray) -> None:
    """Histogram of the genuine and of the impostor scores."""
    histograms = {
        label: (BINS, shares) for label, shares in zip(("genuine", "impostor"), _shares(scores, same), strict=True)
    }
    save_chart(path, chart([Panel(histograms, "cosine similarity", "share of the pairs (%)")], name, (7, 4)))


def draw_pairs(path: Path, rows: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, float]]]) -> None:
    """A sheet of pairs: for each title a row of (image, image, score), the two images one above the other.

    Images are [h, w, 3] uint8 RGB of one size.
    """
    stacked = {title: [np.vstack(pair[:2]) for pair in pairs] for title, pairs in rows.items()}
    captions = {title: [f"{pair[2]:.3f}" for pair in pairs] for title, pairs in rows.items()}
    height = max((len(image) for images in stacked.values() for image in images), default=1)
    save_png(path, sheet(stacked, height, captions))
