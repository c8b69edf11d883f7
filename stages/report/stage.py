"""One page that shows the whole run: `plots/report.html`.

    r2r report

Self-contained: it opens without a network and without JavaScript, and equal runs give equal bytes. A stage's part of
the page is `templates/<stage>.html`, which sees the stage's metrics; what it needs beside them is the function of the
stage's name in `sections`.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from stages.report import cards, sections
from stages.report.pictures import Pictures
from stages.store import StoreError, replacing

if TYPE_CHECKING:
    from stages.params import Params

TEMPLATES = Path(__file__).parent / "templates"
FIRST = "evaluate"  # on the page; the others stand as data flows


def run(params: Params, root: Path = Path(".")) -> None:
    """Write `plots/report.html`, and `source.png`, `target.png`, `align.png`, `train.png` and `cards/` beside it.

    Raises:
        StoreError: an earlier stage has not run, or a table or picture is broken; nothing has been written then.
    """
    blocks = {field.name: getattr(params, field.name) for field in fields(params)}
    stages = [name for name in blocks if (TEMPLATES / f"{name}.html").is_file()]
    metrics = read_metrics(root / "metrics", list(blocks), stages)
    pictures = Pictures(root)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    environment.globals.update(params=params, metrics=metrics, pictures=pictures)
    parts, more = {}, {}
    for name in sorted(stages, key=lambda stage: stage != FIRST):
        gather = getattr(sections, name, None)
        try:
            more[name] = gather(params, root, metrics[name], pictures) if gather else {}
            parts[name] = environment.get_template(f"{name}.html").render(m=metrics[name], **more[name])
        except (UndefinedError, TypeError, ValueError) as error:
            raise StoreError(f"{root}/metrics/{name}.json: {error}; run `r2r {name}` again") from error
    page = environment.get_template("page.html").render(
        top={name: value for name, value in blocks.items() if not is_dataclass(value)},
        blocks={
            name: {field.name: getattr(block, field.name) for field in fields(block)}
            for name, block in blocks.items()
            if is_dataclass(block)
        },
        sections=[part for part in parts.values() if part.strip()],
        **more[FIRST],
    )
    pictures.save()
    cards.write(params, root, metrics, environment)
    with replacing(root / "plots/report.html") as path:
        path.write_text(page + "\n", encoding="utf-8")


def read_metrics(folder: Path, order: list[str], needed: list[str]) -> dict[str, dict[str, Any]]:
    """All flat `metrics/<stage>.json`, in this order and then by name.

    Raises:
        StoreError: one that the page needs is missing, or one is not a JSON object.
    """
    found = {path.stem: path for path in folder.glob("*.json")}
    for stage in needed:
        if stage not in found:
            raise StoreError(f"{folder / stage}.json: not there; run `r2r {stage}` before the report")
    metrics = {}
    for stage in sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name)):
        try:
            metrics[stage] = dict(json.loads(found[stage].read_text()))
        except (TypeError, ValueError) as error:
            raise StoreError(f"{found[stage]}: not a JSON object ({error}); run `r2r {stage}` again") from error
    return metrics


def cell(value: object) -> str:
    """A value as text: counts with thousands apart, lists with commas, a dash for nothing."""
    if value is None or value == () or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple | list):
        return ", ".join(map(cell, value))
    return str(value)
