"""One page that shows the whole run: `plots/report.html`.

    r2r report
    r2r report --out FILE
    r2r report --compare EXP …

Self-contained: it opens without a network, and reads without JavaScript. In the pipeline equal runs give equal bytes;
by hand, with `--out` or `--compare`, the page also has what equal runs do not share: revision, machine, and times.

A stage's part of the page is `templates/<stage>.html`, which sees the stage's metrics; what it needs beside them is the
function of the stage's name in `sections`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from stages.report import cards, pipeline, provenance, runs, sections
from stages.report.pictures import Pictures
from stages.store import StoreError, replacing

if TYPE_CHECKING:
    from stages.params import Params

TEMPLATES = Path(__file__).parent / "templates"
FIRST = "evaluate"  # on the page; the others stand as data flows
NEEDED = ("fetch", "gap", "synthesize", "align")  # metrics of stages that have no part of their own
CONTENTS = {
    "results": "Results",
    "runs": "Runs",
    "samples": "Images",
    "identities": "Identities",
    "gap": "Gap",
    "fit": "What it learned",
    "judge": "Judged",
    "training": "Training",
    "provenance": "Provenance",
    "numbers": "All numbers",
}


def run(params: Params, root: Path = Path("."), out: Path | None = None, compare: Sequence[str] = ()) -> None:
    """Write `plots/report.html`, and `source.png`, `target.png`, `align.png`, `train.png` and `cards/` beside it.

    Args:
        params: all knobs.
        root: the project's folder.
        out: write this page alone, with what equal runs do not share.
        compare: experiments or other revisions to put beside this run; `out` is `plots/compare.html` then, if none.

    Raises:
        StoreError: an earlier stage has not run, or a table or picture is broken; nothing has been written then.
    """
    if compare:
        out = out or root / "plots/compare.html"
    blocks = {field.name: getattr(params, field.name) for field in fields(params)}
    stages = [name for name in blocks if (TEMPLATES / f"{name}.html").is_file()]
    metrics = read_metrics(root / "metrics", list(blocks), [name for name in blocks if name in (*stages, *NEEDED)])
    pictures = Pictures(root)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: not (name or "").endswith((".css", ".js")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "interval": sections.interval}
    environment.globals.update(params=params, metrics=metrics, pictures=pictures)

    def part(template: str, blamed: str, **variables: Any) -> str:
        try:
            return environment.get_template(f"{template}.html").render(**variables)
        except (UndefinedError, TypeError, ValueError) as error:
            raise StoreError(f"{root}/metrics/{blamed}.json: {error}; run `r2r {blamed}` again") from error

    parts: list[str] = []
    first: dict[str, Any] = {}
    for name in sorted(stages, key=lambda stage: stage != FIRST):
        gather = getattr(sections, name, None)
        try:
            more = gather(params, root, metrics[name], pictures) if gather else {}
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{root}/metrics/{name}.json: {error}; run `r2r {name}` again") from error
        parts.append(part(name, name, m=metrics[name], **more))
        if name == FIRST:
            first = more
            if compare:
                beside = [runs.read("this run", root), *(runs.fetch(revision, root) for revision in compare)]
                parts.append(part("runs", FIRST, **runs.compare(beside, pictures)))
            parts.append(part("samples", "align", **sections.samples(params, root, metrics, pictures)))
    this_run = provenance.of_this_run(root, list(pipeline.STAGES)) if out else None
    where = {"outputs": provenance.outputs(root), "data": provenance.data(params), "programs": provenance.programs()}
    parts.append(part("provenance", FIRST, this_run=this_run, **where))
    page = part(
        "page",
        FIRST,
        top={name: value for name, value in blocks.items() if not is_dataclass(value)},
        blocks={
            name: {field.name: getattr(block, field.name) for field in fields(block)}
            for name, block in blocks.items()
            if is_dataclass(block)
        },
        sections=[one for one in parts if one.strip()],
        contents={
            anchor: title for anchor, title in CONTENTS.items() if f'id="{anchor}"' in "".join(parts) + 'id="numbers"'
        },
        **pipeline.picture(metrics, len(first["whole"])),
        **first,
    )
    if not out:
        pictures.save()
        cards.write(params, root, metrics, environment)
    with replacing(out or root / "plots/report.html") as path:
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
