"""Audit a set of faces: how far its identities lie apart, and whether it gives anybody of a reference set away.

r2r audit
r2r audit SET --reference REFERENCE --encoder NETWORK
"""

from __future__ import annotations

import csv
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from stages.audit.leakage import Nearness, near_identities, near_images
from stages.audit.separability import apart, fdr, moments, scores
from stages.audit.vectors import Vectors, seen
from stages.evaluate import plots
from stages.evaluate.embeddings import load_network
from stages.evaluate.knobs import Evaluate
from stages.evaluate.metrics import roc
from stages.evaluate.results import Numbers, percent
from stages.filter import Filter
from stages.images import read_faces
from stages.knobs import pick_device
from stages.pictures import Panel, chart, save_chart
from stages.store import StoreError, emptied, replacing, write_json

ANCHORS = Path(__file__).parent / "anchors.yaml"
WORST, LISTED = 10, 1000  # pairs of the sheet; of the table
MEASURES = {"fdr": "FDR", "eer": "EER %", "fmr100": "FMR100 %", "fmr1000": "FMR1000 %"}
MEASURES |= {"genuine_mean": "genuine mean", "impostor_mean": "impostor mean"}


def audit(
    images: Path,
    reference: Path | None = None,
    *,
    encoder: Path,
    fmr: float = 1e-4,
    detect: bool = False,
    flip: bool = True,
    root: Path = Path("."),
) -> Numbers:
    """Audit a set; write `metrics/audit.json` and `plots/audit/`, and print the numbers beside the published ones.

    Args:
        images: a set of labelled faces, in any form.
        reference: another; none leaves out the leakage.
        encoder: our checkpoint, AdaFace's `.ckpt`, insightface's `.pth`, or an ONNX encoder.
        fmr: share of the pairs of the reference's people that the threshold of identities lets pass.
        detect, flip: see `seen`.
        root: where `metrics/` and `plots/` are.

    Raises:
        ParamsError: `fmr` is finer than a pair of the reference.
        StoreError: a file that is missing or broken, or one identity, or none with two images.
    """
    network, device = load_network(encoder), pick_device(Filter().device, "device")
    folder = root / "plots/audit"
    options: dict[str, Any] = {"detect": detect, "flip": flip, "batch_size": Evaluate().batch_size}
    with ExitStack() as stack:
        audited = stack.enter_context(seen(read_faces(images), network, **options))
        numbers: Numbers = {"set": audited.faces.digest(), "network": network.digest}
        found, curve = separability(audited, images, device)
        numbers |= found
        known = stack.enter_context(seen(read_faces(reference), network, **options)) if reference else None
        if known is not None:
            identities, by_chance = near_identities(audited, known, fmr, device)
            copies = near_images(audited, known, device)
            numbers |= leakage(known, identities, by_chance, copies, fmr)
        emptied(folder)
        plots.draw_scores(folder / "scores.png", images.name, *curve)
        plots.write_scores_csv(folder / "scores.csv", *curve)
        if known is not None:
            _draw(folder, audited, known, identities, copies)
    write_json(root / "metrics/audit.json", numbers)
    _print(numbers, images.name)
    return numbers


def separability(audited: Vectors, path: Path, device: str) -> tuple[Numbers, tuple[np.ndarray, np.ndarray]]:
    """The numbers of the set alone, and the scored pairs that they are of: [p] cosines, [p] whether genuine.

    Raises:
        StoreError: one identity, or none with two images.
    """
    genuine, impostor = moments(audited.images, audited.starts)
    if not (genuine.pairs and impostor.pairs):
        raise StoreError(f"{path}: {genuine.pairs} genuine and {impostor.pairs} impostor pairs: it needs both kinds")
    cosines, same = scores(audited.images, audited.starts)
    curve = roc(cosines, same)
    threshold = Filter().threshold
    left, pairs, largest = apart(audited.prototypes, threshold, device)
    numbers: Numbers = {
        "images": len(audited.faces),
        "identities": len(audited.prototypes),
        "without_face": audited.without_face,
        "genuine_mean": round(genuine.mean, 4),
        "genuine_std": round(genuine.std, 4),
        "impostor_mean": round(impostor.mean, 4),
        "impostor_std": round(impostor.std, 4),
        "fdr": round(fdr(genuine, impostor), 4),
        "genuine_pairs": curve.genuine,
        "impostor_pairs": curve.impostors,
        "auc": percent(curve.auc()),
        "eer": percent(curve.eer()),
    }
    for name, rate in (("fmr100", 1e-2), ("fmr1000", 1e-3)):
        if rate * curve.impostors >= 1:
            numbers[name] = percent(1 - curve.tar_at_far(rate)[0])
    numbers |= {
        "duplicate_threshold": threshold,
        "near_duplicates": pairs,
        "identities_apart": left,
        "nearest_identities": round(largest, 4),
    }
    return numbers, (cosines, same)


def leakage(known: Vectors, identities: Nearness, by_chance: float, copies: Nearness, fmr: float) -> Numbers:
    """What the reference says of the set."""
    numbers: Numbers = {
        "reference": known.faces.digest(),
        "reference_images": len(known.faces),
        "reference_identities": len(known.prototypes),
        "fmr": fmr,
        "identity_threshold": round(identities.threshold, 4),
        "near_identities": len(identities.found),
        "near_identities_percent": percent(len(identities.found) / len(identities.similarity)),
        "reference_near_percent": percent(by_chance),
    }
    if math.isfinite(copies.threshold):
        numbers |= {"copy_threshold": round(copies.threshold, 4), "copies": len(copies.found)}
    for name, one in (("identity", identities), ("image", copies)):
        numbers[f"{name}_nearest_mean"] = round(float(one.similarity.mean()), 4)
        numbers[f"{name}_nearest_max"] = round(float(one.similarity.max()), 4)
    return numbers


def _draw(folder: Path, audited: Vectors, known: Vectors, identities: Nearness, copies: Nearness) -> None:
    """Histograms of the two questions, and the pairs that are nearest, as a sheet and as a table."""
    panels = [_panel("identities: cosine of prototypes", identities), _panel("images: cosine", copies)]
    for name, panel in zip(("identities", "images"), panels, strict=True):
        save_chart(folder / f"{name}.png", chart([panel], size=(7, 4)))
    near = {name: np.argsort(-one.similarity, kind="stable") for name, one in (("p", identities), ("i", copies))}
    people = [_most_alike(audited, known, row, int(identities.index[row])) for row in near["p"][:WORST].tolist()]
    first, second = np.array(people).T
    shown = near["i"][:WORST]
    rows = {
        "identities nearest to one of the reference (below), by their most similar images; cosine of the prototypes": (
            (first, second, identities.similarity[near["p"][:WORST]])
        ),
        "images nearest to one of the reference (below)": (shown, copies.index[shown], copies.similarity[shown]),
    }
    plots.draw_pairs(
        folder / "pairs.png",
        {
            title: list(zip(audited.pictures(left), known.pictures(right), cosine.tolist(), strict=True))
            for title, (left, right, cosine) in rows.items()
        },
    )
    with replacing(folder / "pairs.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("what", "identity", "sample", "reference_identity", "reference_sample", "cosine", "too_near"))
        for row in near["p"][:LISTED].tolist():
            person, other = audited.faces.identities[row], known.faces.identities[identities.index[row]]
            writer.writerow(("identity", person, "", other, "", *_near(identities, row)))
        for row in near["i"][:LISTED].tolist():
            other = copies.index[row]
            names = audited.faces.identity[row], audited.faces.sample[row], known.faces.identity[other]
            writer.writerow(("image", *names, known.faces.sample[other], *_near(copies, row)))


def _near(nearness: Nearness, row: int) -> tuple[str, int]:
    return f"{nearness.similarity[row]:.4f}", int(nearness.similarity[row] >= nearness.threshold)


def _panel(x: str, nearness: Nearness) -> Panel:
    shown = {
        "two people of the reference": nearness.impostor,
        "one person of the reference": nearness.genuine,
        "nearest in the reference": nearness.similarity,
    }
    shares = {
        label: 100 * np.histogram(np.clip(values, -1, 1), plots.BINS)[0] / max(len(values), 1)
        for label, values in shown.items()
    }
    marks = {f"too near from {nearness.threshold:.3f} on": nearness.threshold}
    return Panel(
        {label: (plots.BINS, share) for label, share in shares.items() if share.any()},
        x,
        "share (%)",
        marks=marks if math.isfinite(nearness.threshold) else {},
    )


def _most_alike(audited: Vectors, known: Vectors, identity: int, other: int) -> tuple[int, int]:
    """The rows of the two most similar images of two identities."""
    firsts = int(audited.starts[identity]), int(known.starts[other])
    cosines = (
        audited.images[firsts[0] : audited.starts[identity + 1]] @ known.images[firsts[1] : known.starts[other + 1]].T
    )
    place = np.unravel_index(int(cosines.argmax()), cosines.shape)
    return firsts[0] + int(place[0]), firsts[1] + int(place[1])


def _print(numbers: Numbers, name: str) -> None:
    console, anchors, n = Console(), yaml.safe_load(ANCHORS.read_text()), numbers
    title = f"separability (published: {anchors['source']}, seen by {anchors['encoder']}; comparable under it alone)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("set", *MEASURES.values()):
        table.add_column(column, justify="left" if column == "set" else "right")
    for label, row in {name: numbers, **anchors["sets"]}.items():
        cells = (f"{row[key]:.4g}" if key in row else "" for key in MEASURES)
        table.add_row(label, *cells, style="bold" if row is numbers else "")
    console.print(table)
    print(
        f"\n{n['identities']:,} identities, {n['identities_apart']:,} without near-duplicates (prototypes above a "
        f"cosine of {n['duplicate_threshold']})"
    )
    if "reference" in n:
        print(
            f"{n['near_identities']:,} of them ({n['near_identities_percent']} %) are as near to one of the "
            f"reference's {n['reference_identities']:,} as {n['fmr']:g} of the pairs of these are; of these "
            f"themselves, each against the others, {n['reference_near_percent']} % are"
        )
        print(
            f"{n['copies']:,} images are as near to one of the reference as copies are"
            if "copies" in n
            else "too few images of one person in the reference, to say what a copy is"
        )
