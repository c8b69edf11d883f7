"""One page that shows the whole run: `plots/report.html`.

    r2r report

Self-contained: it opens without a network and without JavaScript, and equal runs give equal bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from stages.params import Params
from stages.report import charts, sections, sheets
from stages.store import StoreError, replacing

PAGE = Path(__file__).parent / "page.html"
STAGES = ("fetch", "embed", "filter", "gap", "synthesize", "align", "train", "evaluate")  # as data flows
NEEDED = ("filter", "gap", "synthesize", "align", "train", "evaluate")


def run(params: Params, root: Path = Path(".")) -> None:
    """Write `plots/report.html`, and `source.png`, `target.png`, `align.png` and `train.png` beside it.

    Raises:
        StoreError: an earlier stage has not run; nothing has been written then.
    """
    metrics = read_metrics(root / "metrics")
    numbers = sections.by_benchmark(metrics["evaluate"])
    curves = {path.stem: charts.read_csv(path) for path in sorted((root / "plots/roc").glob("*.csv"))}
    training = charts.draw_training(charts.read_csv(root / "plots/train.csv"))
    people = sheets.chosen_identities(root / "data/filter.h5", params.report.rows)
    samples = {
        "source": sheets.source_sheet(root / "data/source", people, params.report.columns),
        "target": sheets.target_sheet(root / "data/target/target.zip", params.report.rows, params.report.columns),
        "align": sheets.align_sheet(root / "data/align", people, params.report.columns),
    }
    body = [
        sections.results(numbers, curves),
        sections.domain_gap(numbers),
        sections.images(samples),
        sections.conditioning(metrics["gap"], root / "plots/gap"),
        sections.synthesis(params.method, metrics["synthesize"], root / "plots/synthesize"),
        sections.identities(params.filter, metrics["filter"], root / "plots"),
        sections.training(training, metrics["train"]),
        sections.hardest_pairs(root / "plots/pairs"),
        sections.all_numbers(metrics),
    ]
    page = Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=f"render2real: method {params.method}, profile {params.profile}",
        header=sections.header(params, metrics, numbers),
        sections="\n".join(body),
    )

    for name, sheet in samples.items():
        with replacing(root / f"plots/{name}.png") as path:
            Image.fromarray(sheet).save(path, "png")
    with replacing(root / "plots/train.png") as path:
        training.savefig(path, format="png", dpi=120)
    with replacing(root / "plots/report.html") as path:
        path.write_text(page, encoding="utf-8")


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """All flat `metrics/<stage>.json`, in the order in which data flows.

    Raises:
        StoreError: one that the page needs is missing, or one is not a JSON object.
    """
    found = {path.stem: path for path in folder.glob("*.json")}
    for stage in NEEDED:
        if stage not in found:
            raise StoreError(f"{folder / stage}.json: not there; run `r2r {stage}` before the report")
    metrics = {}
    for stage in sorted(found, key=lambda name: (STAGES.index(name) if name in STAGES else len(STAGES), name)):
        try:
            metrics[stage] = dict(json.loads(found[stage].read_text()))
        except (TypeError, ValueError) as error:
            raise StoreError(f"{found[stage]}: not a JSON object ({error}); run `r2r {stage}` again") from error
    return metrics
