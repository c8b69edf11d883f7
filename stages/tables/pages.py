"""A table as it is shown: ours beside the published, as text, Markdown, CSV, HTML or LaTeX.

On the official data each number of ours stands under the published one, with the difference. Any other profile has
benchmarks of its own, so that its numbers stand in a table of their own, under their own names; what can be compared is
what a row gains over the first, and what the claims say.
"""

from __future__ import annotations

import csv
import html
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.tables.definitions import MEAN, Table, columns_of, lacks, load_profile, load_table, names, value_of
from stages.tables.results import Finding, Result, findings, measured, place, read

LATEX = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "±": r"$\pm$", ">": "$>$"}


@dataclass(frozen=True)
class Grid:
    """A heading, and lines of cells under column heads."""

    title: str
    heads: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class Page:
    """What is shown of a table: grids, and remarks."""

    title: str
    remarks: list[str]
    grids: list[Grid]


def show(name: str, profile: str, now: str, root: Path = Path(".")) -> Page:
    """A table's page in a profile.

    Args:
        name: of the table.
        profile: one of tables/profile.
        now: digest of the code as it is, against that of the results.
        root: the project's folder.
    """
    table, results = load_table(name, root), read(place(name, profile, root))
    own = [_published(table), _own(table, profile, results, root)]
    grids = _official(table, results) if profile == "paper" else own
    remarks = [f"Published: {table.source}.", table.note.strip()]
    if profile != "paper":
        remarks.append(f"Ours are of the profile {profile}, whose benchmarks bear their own names: not to be compared.")
    old = sum(result.code != now for result in results)
    if old:
        remarks.append(f"{old} of {len(results)} results are of other code than this: `r2r tables run {name}`.")
    found = findings(table, profile, results, root)
    return Page(f"{name}: {table.caption}", list(filter(None, remarks)), [*grids, *([_claims(found)] if found else [])])


def listing(profile: str, root: Path = Path(".")) -> Grid:
    """All tables, with what has been run of them."""
    lines = []
    for name in names(root):
        table, results = load_table(name, root), read(place(name, profile, root))
        rows = [row for row in table.rows if row.runs_in(profile)]
        ready = [row for row in rows if not lacks(row, profile, {}, root)]
        seeds = [sum(result.row == row.name for result in results) for row in ready]
        counts = [len(table.rows), len(ready), sum(map(bool, seeds)), min(seeds, default=0)]
        needs = f"{len(rows) - len(ready)} more need data" if len(rows) > len(ready) else ""
        lines.append([name, table.caption, *map(str, counts), needs])
    needs = load_profile(profile, root).needs
    title = f"profile {profile}" + (f", which needs {needs}" if needs else "")
    return Grid(title, ["table", "", "rows", "can run", "have run", "seeds", ""], lines)


def _published(table: Table) -> Grid:
    found = [(row.name, table.published(row)) for row in table.rows]
    lines = [[name, *(_cell(row.get(head)) for head in table.columns)] for name, row in found]
    return Grid("Published", ["published", *table.columns], lines)


def _own(table: Table, profile: str, results: Sequence[Result], root: Path) -> Grid:
    """Ours, and of the column of the claims what a row gains over the first."""
    columns = columns_of(table, profile, root)
    numbers = measured(results, columns)
    ready = {row.name for row in table.rows if row.runs_in(profile) and not lacks(row, profile, {}, root)}
    rows = [row for row in table.rows if row.name in ready | numbers.keys()]
    by = table.claims[0].by if table.claims else {}
    chief, official = by.get(profile, MEAN), by.get("paper", MEAN)
    lines = []
    for row in rows:
        own = numbers.get(row.name, {})
        cells = [_spread(own.get(head, np.array([]))) for head in columns]
        first = numbers.get(rows[0].name, {}).get(chief, np.array([]))
        gain = own[chief].mean() - first.mean() if row.name in numbers and len(first) else math.nan
        high, low = (value_of(table.published(one).get(official, "")) for one in (row, rows[0]))
        theirs = high - low if high is not None and low is not None else math.nan
        lines.append([row.name, str(len(own.get(chief, ()))), *cells, _signed(gain), _signed(theirs)])
    heads = [profile, "seeds", *columns, f"{chief}, over the first", "published, over the first"]
    return Grid(f"Ours, profile {profile}: mean ± standard deviation over seeds", heads, lines)


def _official(table: Table, results: Sequence[Result]) -> list[Grid]:
    """Published, ours and the difference, one under the other."""
    numbers, lines = measured(results, table.columns), []
    for row in table.rows:
        theirs, own = table.published(row), numbers.get(row.name, {})
        lines.append([row.name, "published", *(_cell(theirs.get(head)) for head in table.columns)])
        if own:
            there = [own.get(head, np.array([])) for head in table.columns]
            lines.append(["", f"ours, {len(there[0])} seeds", *map(_spread, there)])
            apart = [
                values.mean() - value if len(values) and value is not None else math.nan
                for values, value in zip(there, (value_of(theirs.get(head, "")) for head in table.columns), strict=True)
            ]
            lines.append(["", "difference", *map(_signed, apart)])
    return [Grid("Published and ours: mean ± standard deviation over seeds", ["", "", *table.columns], lines)]


def _claims(found: Sequence[Finding]) -> Grid:
    lines = [
        [
            one.claim.say,
            f"{one.claim.higher} > {one.claim.lower}",
            one.published,
            _signed(one.ours) + ("" if math.isnan(one.error) else f" ± {2 * one.error:.2f}"),
            one.verdict,
        ]
        for one in found
    ]
    heads = ["claim", "rows", "published", "ours ± two standard errors", ""]
    return Grid("What is claimed, and what is seen", heads, lines)


def _cell(value: float | str | None) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) and abs(value) >= 1 else str(value)


def _spread(values: np.ndarray) -> str:
    if not len(values) or np.isnan(values).any():
        return ""
    digits = 2 if abs(values).max() >= 1.5 else 4
    deviation = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


def _signed(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.2f}"


def as_text(page: Page) -> str:
    """For a terminal, columns side by side."""
    parts = [page.title, *(textwrap.fill(remark, 100) for remark in page.remarks)]
    return "\n\n".join([*parts, *map(text_of, page.grids)])


def text_of(grid: Grid) -> str:
    """A grid for a terminal."""
    widths = [max(map(len, column)) for column in zip(grid.heads, *grid.lines, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (grid.heads, *grid.lines)]
    return "\n".join([grid.title, "-" * min(max(map(len, lines)), 100), *lines])


def as_markdown(page: Page) -> str:
    """With pipe tables."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

    grids = [
        f"**{grid.title}**\n\n" + "\n".join([line(grid.heads), "|---" * len(grid.heads) + "|", *map(line, grid.lines)])
        for grid in page.grids
    ]
    return "\n\n".join([f"## {page.title}", *page.remarks, *grids])


def as_csv(page: Page) -> str:
    """The grids as lines of a CSV, each under its title."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    for grid in page.grids:
        lines.writerows([[grid.title], grid.heads, *grid.lines, []])
    return text.getvalue()


def as_html(page: Page) -> str:
    """A fragment, to be put into a page."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    grids = [
        f"<table>\n<caption>{html.escape(grid.title)}</caption>\n<thead>{line('th', grid.heads)}</thead>\n<tbody>\n"
        + "\n".join(line("td", cells) for cells in grid.lines)
        + "\n</tbody>\n</table>"
        for grid in page.grids
    ]
    remarks = [f"<p>{html.escape(remark)}</p>" for remark in page.remarks]
    return "\n".join([f"<section>\n<h2>{html.escape(page.title)}</h2>", *remarks, *grids, "</section>"])


def as_latex(page: Page) -> str:
    """Tabulars, without packages."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    grids = [
        "\n".join(
            [
                f"% {grid.title}",
                rf"\begin{{tabular}}{{{'l' * len(grid.heads)}}}",
                line(grid.heads),
                r"\hline",
                *map(line, grid.lines),
                r"\end{tabular}",
            ]
        )
        for grid in page.grids
    ]
    return "\n\n".join([f"% {page.title}", *(f"% {remark}" for remark in page.remarks), *grids])
