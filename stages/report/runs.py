"""Several runs side by side: what differs in their parameters, their numbers, curves and images.

    r2r report --compare EXP …

A run is an experiment or any other revision of git: its parameters and metrics stand in git, its curves and sheets in
DVC's cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from stages.evaluate.results import Row, parse
from stages.filter import chosen_identities
from stages.pictures import GAP, LINE, TILE
from stages.report.charts import LINEAR, LOG, chart
from stages.report.pictures import Pictures
from stages.report.sections import interval, read_csv, roc_chart, training_charts
from stages.store import StoreError, decode

NEEDED = ("params.yaml", "metrics", "data/filter.h5", "plots/roc", "plots/train.csv", "plots/synthesize")
SIDE = 8  # identities of the sheet of methods
Variables = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One of them.

    knobs: by dotted name; rows: of the benchmarks; curves: FAR and TAR by benchmark; training: columns of
    plots/train.csv; people: the first of the chosen identities; sheet: of source and generated images, where there is.
    """

    name: str
    knobs: dict[str, Any]
    rows: list[Row]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    training: dict[str, np.ndarray]
    people: list[int]
    sheet: np.ndarray | None


def read(name: str, root: Path) -> Run:
    """The run that stands in a folder.

    Raises:
        StoreError: a part of it is missing or broken.
    """
    try:
        knobs = yaml.safe_load((root / "params.yaml").read_text())
        rows = parse(json.loads((root / "metrics/evaluate.json").read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StoreError(f"run {name}: no parameters or numbers to read ({error}); was it run to its end?") from error
    curves = {path.stem: read_csv(path, ["fpr", "tpr"]) for path in sorted((root / "plots/roc").glob("*.csv"))}
    picture = root / "plots/synthesize/sheet.png"
    return Run(
        name,
        _flat(knobs),
        rows,
        {benchmark: (curve["fpr"], curve["tpr"]) for benchmark, curve in curves.items()},
        read_csv(root / "plots/train.csv", ["epoch", "loss", "accuracy", "lr"]),
        chosen_identities(root / "data/filter.h5", SIDE),
        decode(picture.read_bytes(), str(picture)) if picture.is_file() else None,
    )


def fetch(name: str, root: Path) -> Run:
    """The run of an experiment, branch, tag or commit of the repository.

    Raises:
        StoreError: no such revision, or DVC's cache lacks what it made.
    """
    from dvc.api import DVCFileSystem  # here: it takes a second to load
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError, resolve_rev

    with TemporaryDirectory() as folder:
        try:
            with Repo(str(root)) as repo:
                revision = resolve_rev(repo.scm, name)  # an experiment's name is none of git's
            files = DVCFileSystem(str(root), rev=revision)
            for path in filter(files.exists, NEEDED):  # `read` names what is missing
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                files.get(path, str(Path(folder) / path), recursive=files.isdir(path))
        except (DvcException, SCMError, OSError) as error:
            raise StoreError(
                f"run {name}: {error or type(error).__name__}; `dvc exp list` says what there is, "
                f"`dvc pull` or `dvc exp apply {name}` with `dvc repro` brings what it made"
            ) from error
        return read(name, Path(folder))


def compare(runs: Sequence[Run], pictures: Pictures) -> Variables:
    """What the page shows of runs, the first being that of the page."""
    names = [run.name for run in runs]
    knobs = list(dict.fromkeys(knob for run in runs for knob in run.knobs))
    values = {knob: [run.knobs.get(knob) for run in runs] for knob in knobs}
    benchmarks = list(dict.fromkeys(row.name for run in runs for row in run.rows))
    rows = {run.name: {row.name: row for row in run.rows} for run in runs}

    def line(benchmark: str, number: str) -> list[str]:
        found = [rows[name].get(benchmark) for name in names]
        return [benchmark, *(_cell(row, number) for row in found)]

    tables = {}
    for title, numbers in (("Accuracy", ("accuracy", "mean")), ("AUC", ("auc",)), ("Gap between groups", ("gap",))):
        lines = [line(benchmark, number) for benchmark in benchmarks for number in numbers]
        shown = [one for one in lines if any(cell != "–" for cell in one[1:])]
        if shown:
            tables[title] = [["", *names], *shown]
    shared = [name for name in runs[0].curves if all(name in run.curves for run in runs)]
    return {
        "knobs": [
            ["", *names],
            *([knob, *cells] for knob, cells in values.items() if cells.count(cells[0]) < len(cells)),
        ],
        "tables": tables,
        "rocs": [roc_chart(name, {run.name: run.curves[name] for run in runs}) for name in shared],
        "training": training_charts({run.name: run.training for run in runs}),
        "by_number": _by_number(runs),
        "side": _side(runs, pictures),
        "run_sheets": {
            f"{run.name}: {run.knobs.get('method')}": (
                pictures.image(run.sheet),
                f"Source and generated images of {run.name}.",
            )
            for run in runs
            if run.sheet is not None
        },
    }


def _by_number(runs: Sequence[Run]) -> Any:
    """Accuracy against the number of identities, a curve a benchmark, where the runs differ in it."""
    ordered = sorted(runs, key=lambda run: run.knobs["n_ids"])
    numbers = np.array([run.knobs["n_ids"] for run in ordered], float)
    if len(set(numbers)) < 2:
        return None
    curves = {}
    for name in (row.name for row in runs[0].rows):
        found = {
            run.name: one.accuracy if one.accuracy is not None else one.mean
            for run in runs
            for one in run.rows
            if one.name == name
        }
        if len(found) == len(runs) and None not in found.values():
            curves[name] = numbers, np.array([found[run.name] for run in ordered], float)
    title = "Accuracy against the number of identities"
    return chart("by_number", title, curves, ("identities", LOG), ("accuracy (%)", LINEAR)) if curves else None


def _side(runs: Sequence[Run], pictures: Pictures) -> dict[str, str]:
    """A column of images a run, of the same identities: the source's first, then each run's first of it."""
    alike = [run for run in runs if run.sheet is not None and run.people == runs[0].people]
    if not alike:
        return {}
    columns = {"source": (alike[0], 0)} | {f"{run.name}: {run.knobs.get('method')}": (run, 1) for run in alike}
    return {
        title: pictures.image(_column(run.sheet, number))
        for title, (run, number) in columns.items()
        if run.sheet is not None
    }


def _column(sheet_: np.ndarray, number: int) -> np.ndarray:
    """The tiles that stand in a column of a sheet of square images."""
    height = LINE + TILE + 2 * GAP
    left = number * (TILE + GAP)
    tiles = [
        sheet_[top + LINE : top + LINE + TILE, left : left + TILE] for top in range(0, len(sheet_) - height + 1, height)
    ]
    return np.concatenate([np.pad(tile, ((0, GAP), (0, 0), (0, 0)), constant_values=255) for tile in tiles])


def _cell(row: Row | None, number: str) -> str:
    value = getattr(row, number, None)
    if row is None or value is None:
        return "–"
    return f"{value:.2f}" + (f"\n{interval(row.intervals[number])}" if number in row.intervals else "")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
