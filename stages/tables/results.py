"""What came out of the rows, `tables/results/<table>.<profile>.csv`: one line a row and seed, with where it is from.

The claims of a table are looked at by the rule of two standard errors: a difference of the means over seeds that is
larger confirms the claim or is its opposite; a smaller one is not seen.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stages.store import StoreError, replacing
from stages.tables.definitions import FOLDER, MEAN, Claim, Columns, Table, columns_of, value_of

Verdict = Literal["confirmed", "not seen", "opposite", "open"]


@dataclass(frozen=True)
class Result:
    """A row at a seed.

    Attributes:
        row, seed: which.
        experiment: its name in DVC, of this table or of another that has the same row.
        revision: the commit it was started from.
        code, params: digests of what it was made by (`stages.tables.experiments`).
        torch, device: what it ran on.
        settings: its overrides.
        numbers: metric -> number; NaN where it was not measured.
    """

    row: str
    seed: int
    experiment: str
    revision: str
    code: str
    params: str
    torch: str
    device: str
    settings: str
    numbers: dict[str, float]


PROVENANCE = [one.name for one in fields(Result)][:-1]


def place(name: str, profile: str, root: Path = Path(".")) -> Path:
    """The file of a table's results in a profile."""
    return root / FOLDER / "results" / f"{name}.{profile}.csv"


def read(path: Path) -> list[Result]:
    """The results that a file holds; none where there is no file.

    Raises:
        StoreError: it is not such a file.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        try:
            return [_result(line) for line in csv.DictReader(file)]
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{path}: no table of results ({error!r}); `git checkout {path}`, or remove it") from error


def _result(line: dict[str, str]) -> Result:
    told = {name: line.pop(name) for name in PROVENANCE}
    numbers = {metric: float(text or "nan") for metric, text in line.items()}
    return Result(**(told | {"seed": int(told["seed"])}), numbers=numbers)  # type: ignore[arg-type]


def write(path: Path, results: Sequence[Result], metrics: Sequence[str]) -> None:
    """Write results, with these metrics as columns."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([*PROVENANCE, *metrics])
        for result in results:
            numbers = [result.numbers.get(metric, math.nan) for metric in metrics]
            told = ["" if math.isnan(number) else f"{number:g}" for number in numbers]
            lines.writerow([*(getattr(result, name) for name in PROVENANCE), *told])


def look_up(metrics: dict[str, dict[str, Any]], key: str) -> float:
    """A number by its key in a table; NaN where it was not measured."""
    stage, _, name = key.rpartition(":")
    return float(metrics.get(stage or "evaluate", {}).get(name, math.nan))


def measured(results: Sequence[Result], columns: Columns) -> dict[str, dict[str, np.ndarray]]:
    """Row -> column -> the numbers of its seeds: [s] float64, by seed."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for row in dict.fromkeys(result.row for result in results):
        own = sorted((result for result in results if result.row == row), key=lambda result: result.seed)
        of_metric = {
            column: np.array([result.numbers.get(key, math.nan) for result in own])
            for column, key in columns.items()
            if isinstance(key, str)
        }
        means = {
            column: np.mean([of_metric[part] for part in parts], axis=0)
            for column, parts in columns.items()
            if isinstance(parts, list)
        }
        found[row] = of_metric | means
    return found


@dataclass(frozen=True)
class Finding:
    """A claim, looked at.

    Attributes:
        claim: which.
        published: the difference, or the two words.
        ours: the difference of the means over seeds; error: its standard error; NaN without two seeds of both rows.
        verdict: by the rule of two standard errors; open where it is not known.
    """

    claim: Claim
    published: str
    ours: float
    error: float
    verdict: Verdict


def difference(higher: np.ndarray, lower: np.ndarray) -> tuple[float, float, Verdict]:
    """Difference of two means over seeds, its standard error, and what that says of "the first is higher"."""
    difference = float(higher.mean() - lower.mean()) if len(higher) and len(lower) else math.nan
    if min(len(higher), len(lower)) < 2 or math.isnan(difference):
        return difference, math.nan, "open"
    error = math.sqrt(higher.var(ddof=1) / len(higher) + lower.var(ddof=1) / len(lower))
    if abs(difference) <= 2 * error or not difference:
        return difference, error, "not seen"
    return difference, error, "confirmed" if difference > 0 else "opposite"


def findings(table: Table, profile: str, results: Sequence[Result], root: Path = Path(".")) -> list[Finding]:
    """What the results say of the table's claims."""
    numbers = measured(results, columns_of(table, profile, root))
    none = np.array([])
    found = []
    for claim in table.claims:
        official, ours = claim.by.get("paper", MEAN), claim.by.get(profile, MEAN)
        pair = [table.published(table.row(name)).get(official, "") for name in (claim.higher, claim.lower)]
        high, low = (value_of(one) for one in pair)
        words = " / ".join(map(str, pair)) if all(pair) else ""
        said = f"{high - low:+.2f}" if high is not None and low is not None else words
        higher, lower = (numbers.get(name, {}).get(ours, none) for name in (claim.higher, claim.lower))
        found.append(Finding(claim, said, *difference(higher, lower)))
    return found
