"""What a stage's part of the page needs beside the stage's metrics: one function a stage, by its name.

Each takes the knobs, the workspace, the stage's metrics and the pictures, and gives the template's further variables.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.evaluate.results import KEYS, Row, parse, power
from stages.filter import chosen_identities
from stages.images import Archive, Faces, Shards, read_faces
from stages.pictures import Panel, sheet
from stages.report.charts import LINEAR, LOG, Chart, Curves, chart
from stages.report.pictures import Pictures
from stages.store import Shard, StoreError

if TYPE_CHECKING:
    from stages.params import Params

# What the embedded world's benchmarks compare. They bear their own names; one of another name was fetched.
RENDERED = {
    "random": "two images of rendered people, in the camera look",
    "random-raster": "the same in the raster look, in which the source is rendered",
    "pose": "nearly frontal against turned heads, camera look",
    "profile": "frontal against profile views, camera look",
    "age": "the same person 30 years apart, camera look",
    "quality": "templates of several images of mixed quality, camera look",
    "groups": "pairs within one group of people, camera look",
}
LOOKS = {"raster look": "random-raster", "camera look": "random"}
# What stages/judge.py measures, of the generated images and of the source's.
JUDGED = {
    "identity_consistency": "cosine to the vector asked for; of the source, to the identity's other images",
    "impostor_mean": "cosine of two identities' prototypes",
    "impostor_max": "the largest such cosine",
    "diversity": "1 - cosine of two images of an identity",
    "pixel_diversity": "standard deviation of a pixel over an identity's images",
    "frechet_to_target": "squared Fréchet distance of the embeddings to the target's",
    "look_to_target": "the same of ten statistics of colour and contrast",
    "without_face": "images in which no face was found",
}
TITLES = {
    "variant": "variant",
    "accuracy": "accuracy ± std",
    "auc": "AUC",
    "eer": "EER",
    "tar": "TAR at FAR",
    "val": "VAL at FAR",
    "rank": "rank",
    "tpir": "TPIR at FPIR",
}
TRAINING = {"loss": "loss", "accuracy": "training accuracy (%)", "lr": "learning rate"}
BINS = np.linspace(-0.5, 1, 61)  # of a cosine
Variables = dict[str, Any]


def samples(params: Params, root: Path, metrics: Mapping[str, Any], pictures: Pictures) -> Variables:
    """Sheets of the same identities, from the source to what is trained on; the row of one without a face is empty."""
    people, columns = _people(params, root), params.report.columns
    source = _faces(read_faces(root / "data/source"), people, columns)
    sheets = {"source": (pictures.image(sheet(source), "source"), "Source: images as they were fetched.")}
    if metrics["synthesize"]["images"]:
        caption = "Of each identity the first source image, and images that were made of it."
        sheets[params.method] = (pictures.sheet("plots/synthesize/sheet.png"), caption)
    aligned = _faces(Shards(root / "data/align"), people, columns)
    caption = "What the network sees: after detection and warp to 112 x 112."
    sheets["aligned"] = (pictures.image(sheet(aligned), "align"), caption)
    if metrics["gap"]["images"]:
        caption = "Images generated without and with the gap, of the same identity vectors and the same noise."
        sheets["without and with the gap"] = (pictures.sheet("plots/gap/sheet.png"), caption)
    target = _target(Archive(root / "data/target/target.zip"), params.report.rows, columns)
    caption = "Target: images whose look the source is to take; they carry no labels in training."
    sheets["target"] = (pictures.image(sheet(target), "target"), caption)
    return {"sheets": sheets}


def judge(params: Params, root: Path, metrics: Mapping[str, Any], pictures: Pictures) -> Variables:
    """What was judged, of the generated and of the source images, and how much the images of a person vary."""
    if not metrics["judged_images"]:
        return {}
    curves = {
        label: variation(sorted((root / "data/judge" / name).glob("*.h5")))
        for label, name in (("generated", "synthesize"), ("source", "source"))
    }
    axes = ("cosine of two images of a person", LINEAR), ("share of the pairs (%)", LINEAR)
    return {
        "rows": [(text, metrics[name], metrics[f"source_{name}"]) for name, text in JUDGED.items() if name in metrics],
        "variation": chart("variation", "Variation within an identity", curves, *axes),
    }


def variation(shards: Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Middles of bins of the cosine and the share, in %, of the pairs of two images of one person in each.

    Raises:
        StoreError: no shards, or one that is broken.
    """
    counts = np.zeros(len(BINS) - 1)
    for path in shards:
        with Shard(path) as shard:
            identity, embeddings = shard["identity"], shard["embedding"]
        for one in np.unique(identity):
            mine = embeddings[identity == one]
            cosines = (mine @ mine.T)[np.triu_indices(len(mine), 1)]
            counts += np.histogram(np.clip(cosines, BINS[0], BINS[-1]), BINS)[0]
    if not counts.sum():
        raise StoreError("data/judge: no two images of a person; run `r2r judge` again")
    return (BINS[1:] + BINS[:-1]) / 2, 100 * counts / counts.sum()


def fit(params: Params, root: Path, metrics: Mapping[str, Any], pictures: Pictures) -> Variables:
    """The losses over the steps."""
    if not metrics["images"]:
        return {}
    curve = read_csv(root / "plots/fit/fit.csv", ["step"])
    x = curve.pop("step")
    curves = {name: (x, y) for name, y in curve.items()}
    return {"losses": chart("losses", "Losses", curves, ("step", LINEAR), ("loss", LINEAR))}


def train(params: Params, root: Path, metrics: Mapping[str, Any], pictures: Pictures) -> Variables:
    """Loss, training accuracy and learning rate over the epochs."""
    curve = read_csv(root / "plots/train.csv", ["epoch", *TRAINING])
    panels = [
        Panel({"": (curve["epoch"], curve[name])}, "epoch", label, height=0.5 if name == "lr" else 1)
        for name, label in TRAINING.items()
    ]
    pictures.chart(panels, (6, 5.4), "train")
    return {"curves": training_charts({"this run": curve})}


def training_charts(curves: Mapping[str, Mapping[str, np.ndarray]]) -> list[Chart]:
    """The training curves of runs, each with the columns of plots/train.csv."""
    return [
        chart(
            name,
            label.capitalize(),
            {run: (curve["epoch"], curve[name]) for run, curve in curves.items()},
            ("epoch", LINEAR),
            (label, LINEAR),
        )
        for name, label in TRAINING.items()
    ]


def evaluate(params: Params, root: Path, metrics: Mapping[str, Any], pictures: Pictures) -> Variables:
    """Tables of the numbers by kind of benchmark, the curves, and the two looks where both were measured."""
    rows = sorted(parse(metrics), key=lambda row: [*RENDERED, row.name].index(row.name))
    summaries = [row for row in rows if row.kind == "groups"]
    groups = [row for row in rows if row.name.startswith(tuple(f"{summary.name}." for summary in summaries))]
    pairs = [row for row in rows if row.kind == "pairs" and row not in groups]
    of_groups = {row.name for row in groups}
    whole = {row.name for row in rows} - of_groups
    curves = {path.stem: read_csv(path, ["fpr", "tpr"]) for path in sorted((root / "plots/roc").glob("*.csv"))}
    charts = []
    for title, names in (("each benchmark", whole), ("each group", of_groups)):
        shown = {name: (curve["fpr"], curve["tpr"]) for name, curve in curves.items() if name in names}
        if shown:
            charts += [roc_chart(title, shown), det_chart(title, shown)]
    accuracy = {row.name: row.accuracy for row in pairs}
    return {
        "whole": whole,
        "pairs": pairs,
        "summaries": summaries,
        "pair_table": list(zip(*table(pairs), strict=True)),
        "group_table": list(zip(*table(groups), strict=True)),
        "template_table": table([row for row in rows if row.kind == "templates"]),
        "charts": charts,
        "rendered": {name: text for name, text in RENDERED.items() if name in whole},
        "looks": {look: accuracy[name] for look, name in LOOKS.items()} if {*LOOKS.values()} <= {*accuracy} else {},
        "sheets": {name: path for name, path in pictures.named("plots/pairs").items() if name in whole},
    }


def roc_chart(of: str, curves: Curves) -> Chart:
    """TAR over FAR."""
    axes = ("false accept rate (FAR)", LOG), ("true accept rate (TAR)", LINEAR)
    return chart("roc", f"ROC of {of}", curves, *axes, steps=True, ends=(0.0, 1.0))


def det_chart(of: str, curves: Curves) -> Chart:
    """FRR = 1 - TAR over FAR."""
    frr = {name: (far, 1 - tar) for name, (far, tar) in curves.items()}
    axes = ("false accept rate (FAR)", LOG), ("false reject rate (FRR)", LOG)
    return chart("det", f"DET of {of}", frr, *axes, steps=True)


def table(rows: list[Row]) -> list[list[str]]:
    """A line a number that any of the rows has, below a line of their names; what a row has not is a dash."""
    lines = [["", *(row.name for row in rows)]]
    for name, title in TITLES.items():
        values = [getattr(row, name) for row in rows]
        if name in KEYS:
            for point in sorted({point for of_row in values for point in of_row}):
                ends = [row.intervals.get(f"{KEYS[name]}{power(point)}") for row in rows]
                cells = [_two(of_row.get(point)) + _below(one) for of_row, one in zip(values, ends, strict=True)]
                lines.append([f"{title} {power(point)}", *cells])
        elif any(value is not None for value in values):
            spread = [f" ± {row.std:.2f}" if name == "accuracy" and row.std is not None else "" for row in rows]
            below = [_below(row.intervals.get(name)) for row in rows]
            lines.append([title, *(_two(value) + s + b for value, s, b in zip(values, spread, below, strict=True))])
    return lines


def interval(ends: tuple[float, float]) -> str:
    """A confidence interval, as text."""
    return f"{ends[0]:.1f} to {ends[1]:.1f}"


def _below(ends: tuple[float, float] | None) -> str:
    return f"\n{interval(ends)}" if ends else ""


def _two(value: float | str | None) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.2f}"


def read_csv(path: Path, columns: Iterable[str]) -> dict[str, np.ndarray]:
    """Read a table of numbers: its columns [n] float64 by name.

    Raises:
        StoreError: no such file, one of `columns` is not there, or something is no number.
    """
    try:
        with path.open(newline="") as file:
            head, *rows = csv.reader(file)
        missing = [name for name in columns if name not in head]
        if missing or not rows:
            raise ValueError(f"no column {missing[0]}" if missing else "no rows")
        values = np.array(rows, np.float64).T
        if len(values) != len(head):
            raise ValueError(f"{len(values)} columns below {len(head)} names")
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: not a readable table of numbers ({error}); run its stage again") from error
    return dict(zip(head, values, strict=True))


def _people(params: Params, root: Path) -> list[int]:
    return chosen_identities(root / "data/filter.h5", params.report.rows)


def _faces(faces: Faces, people: list[int], columns: int) -> dict[str, list[np.ndarray]]:
    """The first images of some identities; none of one that is not there."""
    there = set(faces.identities.tolist())
    rows = {identity: faces.rows(identity)[:columns] if identity in there else [] for identity in people}
    return {f"identity {identity}": [faces.image(row) for row in mine] for identity, mine in rows.items()}


def _target(archive: Archive, count: int, columns: int) -> dict[str, list[np.ndarray]]:
    """The first images of the target: a person a row where the archive has a folder for each."""
    names = sorted(archive.names, key=lambda name: [(len(part), part) for part in name.split("/")])
    rows = {f"person {folder}": list(some) for folder, some in groupby(names, lambda name: name.rpartition("/")[0])}
    if len(rows) == 1:
        rows = {f"from {names[row]}": names[row : row + columns] for row in range(0, len(names), columns)}
    chosen = list(rows.items())[:count]
    return {title: [archive.image(name) for name in some[:columns]] for title, some in chosen}
