"""A table as data, `tables/<name>.yaml`: its rows as settings, what was published, and what it claims.

    caption: Number of identities, filtered
    source: where the numbers were published
    note: what is to be known
    columns: {LFW: lfw, CALFW: calfw, mean: [LFW, CALFW]} # of metrics/evaluate.json; judge:NUMBER of another stage's
    embedded: {random: random} # its columns in that profile; default: those of tables/profile
    rows:
      - name: 20K
        set: [method=arc2face] # as typed after -S
        sizes: {embedded: [n_ids=50], paper: [n_ids=20000]} # a profile that is not named does not run the row
        needs: {real.data: what stands there} # a knob that only the user can set
        published: [98.58, 87.22] # in the order of the columns, with or without the means
    claims:
      - {say: more identities teach more, higher: 20K, lower: 10K, by: {paper: mean, embedded: mean}}

`tables/profile/<profile>.yaml` says what every row of every table is set to in a profile, and its columns.
"""

from __future__ import annotations

import re
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stages.knobs import ParamsError, check

T = TypeVar("T")
Columns = dict[str, str | list[str] | None]  # a metric; the columns that it is the mean of; none, published only
Published = float | str

FOLDER = Path("tables")
MEAN = "mean"
model = dataclass(frozen=True, config=ConfigDict(extra="forbid"))


@model
class Row:
    """One line: settings, and what was published of them."""

    name: str
    set: tuple[str, ...] = ()
    sizes: dict[str, tuple[str, ...]] | None = None
    needs: dict[str, str] = field(default_factory=dict)
    published: tuple[Published, ...] = ()

    def runs_in(self, profile: str) -> bool:
        """Whether the profile has a size of it."""
        return self.sizes is None or profile in self.sizes


@model
class Claim:
    """What a paper says of two rows: that one has the higher number, by a profile's column, or by the mean."""

    say: str
    higher: str
    lower: str
    by: dict[str, str] = field(default_factory=dict)


@model
class Profile:
    """What all rows have in common in a profile; `gives` are needs that it fulfils, as knob and path."""

    set: tuple[str, ...]
    columns: Columns = field(default_factory=dict)
    gives: dict[str, str] = field(default_factory=dict)
    needs: str = ""


@model
class Table:
    """A table of a paper."""

    caption: str
    source: str
    columns: Columns
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    note: str = ""
    embedded: Columns = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        check(len(set(names)) == len(names), f"two rows have one name: {names}")
        for columns in (self.columns, self.embedded):
            parts = {part for keys in columns.values() if isinstance(keys, list) for part in keys}
            check(parts <= columns.keys(), f"a mean is of {sorted(parts - columns.keys())}, which are no columns")
        for row in self.rows:
            full = len(self.columns)
            counts = (0, full, full - sum(isinstance(keys, list) for keys in self.columns.values()))
            check(len(row.published) in counts, f"row {row.name}: {len(row.published)} numbers for {full} columns")
        for claim in self.claims:
            absent = {claim.higher, claim.lower} - set(names)
            check(not absent, f"the claim that {claim.say}: no row {', '.join(sorted(absent))}")

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)

    def published(self, row: Row) -> dict[str, Published]:
        """Column -> what was published; a mean that was not is that of its columns."""
        plain = [name for name, keys in self.columns.items() if not isinstance(keys, list)]
        names = list(self.columns) if len(row.published) == len(self.columns) else plain
        found = dict(zip(names, row.published, strict=False))
        for name, keys in self.columns.items():
            if isinstance(keys, list) and name not in found and found:
                found[name] = sum(value_of(found[key]) or 0.0 for key in keys) / len(keys)
        return {name: found[name] for name in self.columns if name in found}


def value_of(published: Published) -> float | None:
    """The number of `98.58` or `91.29±0.57`; none of a word."""
    number = re.match(r"[-\d.]+", str(published))
    return float(number[0]) if number else None


def columns_of(table: Table, profile: str, root: Path = Path(".")) -> Columns:
    """A table's columns in a profile: official ones of the official data only."""
    if profile == "paper":
        return table.columns
    return (table.embedded if profile == "embedded" else {}) or load_profile(profile, root).columns


def metrics_of(columns: Columns) -> list[str]:
    """The metrics that columns are read from."""
    return [keys for keys in columns.values() if isinstance(keys, str)]


def settings(
    table: Table, row: Row, name: str, seed: int, given: dict[str, str], root: Path = Path(".")
) -> tuple[str, ...]:
    """All overrides of a row in a profile at a seed, as typed after -S: the row's own win over the profile's.

    Args:
        table, row: whose.
        name: of the profile.
        seed: of sampling and training.
        given: knob -> value, as typed. What rows of the table need goes to those, anything else to all.
        root: the project's folder.
    """
    profile = load_profile(name, root)
    needed = {knob for one in table.rows for knob in one.needs}
    more = {knob: value for knob, value in {**profile.gives, **given}.items() if knob in row.needs}
    more |= {knob: value for knob, value in given.items() if knob not in needed} | {"seed": str(seed)}
    words = [*profile.set, *row.set, *(row.sizes or {}).get(name, ()), *(f"{k}={v}" for k, v in more.items())]
    return tuple({word.partition("=")[0]: word for word in words}.values())


def lacks(row: Row, name: str, given: dict[str, str], root: Path = Path(".")) -> str:
    """What a row still needs in a profile; empty if nothing."""
    there = {**load_profile(name, root).gives, **given}
    return "; ".join(f"{knob}: {what}" for knob, what in row.needs.items() if knob not in there)


def names(root: Path = Path(".")) -> list[str]:
    """Of all tables."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def load_table(name: str, root: Path = Path(".")) -> Table:
    """Read and check a table.

    Raises:
        ParamsError: no such table, or one that is not as described above.
    """
    check(name in names(root), f"{name}: no such table; there are {', '.join(names(root))}")
    return _load(root / FOLDER / f"{name}.yaml", Table)


def load_profile(name: str, root: Path = Path(".")) -> Profile:
    """Read and check what rows are set to in a profile.

    Raises:
        ParamsError: no such profile, or one that is not as described above.
    """
    known = sorted(path.stem for path in (root / FOLDER / "profile").glob("*.yaml"))
    check(name in known, f"profile {name} has no tables; there are {', '.join(known)}")
    return _load(root / FOLDER / "profile" / f"{name}.yaml", Profile)


def _load(path: Path, kind: type[T]) -> T:
    try:
        values: Any = yaml.safe_load(path.read_text())
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ParamsError(f"{path}: {'; '.join(faults)}") from None
    except (yaml.YAMLError, ParamsError) as error:
        raise ParamsError(f"{path}: {error}") from None
