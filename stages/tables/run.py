"""`r2r tables run`: exactly the rows that are missing, once each, whichever tables have them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from stages.knobs import check
from stages.tables import experiments
from stages.tables.definitions import Table, columns_of, lacks, load_table, metrics_of, settings
from stages.tables.experiments import Experiment, Wish, digest
from stages.tables.people import FILE, make_people
from stages.tables.results import Result, look_up, place, read, write


@dataclass(frozen=True)
class Run:
    """A row of a table at a seed, by its settings, and what they compose to."""

    table: str
    row: str
    seed: int
    settings: tuple[str, ...]
    params: str


def run(
    names: Sequence[str],
    profile: str = "embedded",
    seeds: int = 3,
    jobs: int = 1,
    rows: Sequence[str] = (),
    overrides: Sequence[str] = (),
    root: Path = Path("."),
) -> bool:
    """Run what is missing of some tables, and write their results.

    Args:
        names: of the tables.
        profile: one of tables/profile.
        seeds: 0 to `seeds` - 1.
        jobs: experiments at a time.
        rows: only these; default: all that need nothing that is not there.
        overrides: as typed after -S. What a row needs goes to the rows that need it, anything else to all.
        root: the project's folder.

    Returns:
        Whether all were run.
    """
    given = dict(word.split("=", 1) for word in overrides)
    tables = {name: load_table(name, root) for name in names}
    now = experiments.code(root)
    missing = [one for name in names for one in _missing(tables[name], name, profile, seeds, rows, given, now, root)]
    if not missing:
        print("nothing is missing")
        return True
    found = experiments.finished(root, now)
    todo: dict[str, Run] = {}
    for one in missing:
        if one.params not in found:
            todo.setdefault(one.params, one)  # of equal parameters once
    taken = experiments.taken(root)
    wishes = [Wish(_name(one, profile, taken), one.settings, _files(one)) for one in todo.values()]
    print(f"{len(missing)} results are missing; {len(wishes)} experiments are to be run for them")
    failed = []
    if wishes:
        if any(wish.files for wish in wishes):
            make_people(root)
        failed = experiments.run(root, wishes, jobs, gpus=_gpus())
        found = experiments.finished(root, now)
    for name in names:
        collect(tables[name], name, profile, [one for one in missing if one.table == name], found, now, root)
    for name in failed:
        print(f"failed: {name}; `dvc queue logs {name}` says why")
    return not failed


def collect(
    table: Table,
    name: str,
    profile: str,
    runs: Sequence[Run],
    found: dict[str, Experiment],
    now: str,
    root: Path,
) -> None:
    """Put what was found of these runs into the table's file of results, beside what it holds."""
    metrics = metrics_of(columns_of(table, profile, root))
    path = place(name, profile, root)
    results = {(result.row, result.seed): result for result in read(path)}
    for one in runs:
        if experiment := found.get(one.params):
            origin = (experiment.name, experiment.revision, now, one.params, version("torch"), _device())
            numbers = {key: look_up(experiment.metrics, key) for key in metrics}
            results[one.row, one.seed] = Result(one.row, one.seed, *origin, " ".join(one.settings), numbers)
    order = [row.name for row in table.rows]
    kept = sorted(
        (result for result in results.values() if result.row in order),
        key=lambda result: (order.index(result.row), result.seed),
    )
    if kept:
        write(path, kept, metrics)


def _missing(
    table: Table,
    name: str,
    profile: str,
    seeds: int,
    rows: Sequence[str],
    given: dict[str, str],
    now: str,
    root: Path,
) -> list[Run]:
    """The rows and seeds of which the table has no result, or one of other settings or code."""
    from stages.params import compose

    unknown = set(rows) - {row.name for row in table.rows}
    check(
        not unknown, f"{name} has no row {', '.join(sorted(unknown))}; it has {', '.join(r.name for r in table.rows)}"
    )
    have = {(one.row, one.seed, one.settings, one.code) for one in read(place(name, profile, root))}
    missing = []
    for row in table.rows:
        if not row.runs_in(profile) or (rows and row.name not in rows):
            continue
        if what := lacks(row, profile, given, root):
            print(f"{name}: {row.name} needs {what}")
            continue
        values = None
        for seed in range(seeds):
            words = settings(table, row, profile, seed, given, root)
            if (row.name, seed, " ".join(words), now) in have:
                continue
            values = values or yaml.safe_load(compose(list(words), root / "conf"))
            missing.append(Run(name, row.name, seed, words, digest(values | {"seed": seed})))
    return missing


def _name(one: Run, profile: str, taken: set[str]) -> str:
    """Table, row and seed as a name that git takes; with a number if there is one of the name, of other settings."""
    words = [one.table, one.row, str(one.seed), *([] if profile == "embedded" else [profile])]
    name = re.sub(r"[^\w.]+", "-", "-".join(words))
    return next(name for name in (name, *(f"{name}-{number}" for number in range(2, 1000))) if name not in taken)


def _files(one: Run) -> tuple[str, ...]:
    return (str(FILE),) if f"real.data={FILE}" in one.settings else ()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
