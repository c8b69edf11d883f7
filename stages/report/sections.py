"""The parts of the page, each a function from numbers and pictures to HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stages.params import Filter, Params
from stages.report import charts, html
from stages.store import StoreError, decode

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
RATES = {"tar@far=": "TAR at FAR", "rank": "rank", "tpir@fpir=": "TPIR at FPIR"}  # measured at several points
# What stages/synthesize/judge.py measures, of the generated images and of the source's.
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
CHANCE = 50.0  # % of accuracy

Metrics = Mapping[str, Any]
Numbers = Mapping[str, Metrics]  # of a benchmark, or of a stage


def by_benchmark(flat: Metrics) -> dict[str, dict[str, Any]]:
    """Sort `metrics/evaluate.json` by benchmark: `lfw.auc` is lfw's auc, and `lfw` alone its accuracy."""
    parts = ("std", "auc", "eer", "no_face", "mean", "gap", "variant", "unused")
    numbers: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        name, _, last = key.rpartition(".")
        if name and (last in parts or last.startswith(tuple(RATES))):
            numbers.setdefault(name, {})[last] = value
        elif not isinstance(value, str):
            numbers.setdefault(key, {})["accuracy"] = value
    known = list(RENDERED)
    order = sorted(numbers, key=lambda name: known.index(name) if name in known else len(known))
    return {name: numbers[name] for name in order}


def header(params: Params, metrics: Numbers, numbers: Numbers) -> str:
    """Title, the accuracies, the knobs that people type, and all others to open."""
    knobs = {field.name: getattr(params, field.name) for field in fields(params)}
    top = {name: value for name, value in knobs.items() if not is_dataclass(value)}
    blocks = [
        html.table([name, ""], [(field.name, getattr(block, field.name)) for field in fields(block)], text=(1,))
        for name, block in knobs.items()
        if is_dataclass(block)
    ]
    accuracies = {name: f"{numbers[name]['accuracy']:.2f} %" for name in _pairs(numbers)}
    trained = f"{metrics['train']['images']:,} images of {metrics['train']['identities']:,} people who do not exist"
    note = (
        "These benchmarks show rendered people too and bear their own names; none of the numbers is one of LFW or IJB."
    )
    rendered = any(name.partition(".")[0] in RENDERED for name in numbers)
    return "\n".join(
        (
            "<header>",
            "<h1>render2real</h1>",
            html.paragraph(f"A face recognition network trained on {trained}.", "lead"),
            html.facts(accuracies, "headline"),
            html.paragraph("Verification accuracy on each pair benchmark; 50 % is chance. " + note * rendered, "lead"),
            html.facts(top),
            html.details("All parameters of this run", f'<div class="columns">{"".join(blocks)}</div>'),
            "</header>",
        )
    )


def results(numbers: Numbers, curves: Mapping[str, charts.Curve]) -> str:
    """A table for each kind of benchmark, and the ROC."""
    groups = [name for name, row in numbers.items() if "accuracy" in row and "." in name]
    templates = [name for name, row in numbers.items() if "accuracy" not in row and "auc" in row]
    parts = [
        _table("Pairs: accuracy over ten folds, mean and standard deviation.", numbers, _pairs(numbers)),
        _table("Groups: the same within each group of people.", numbers, groups),
    ]
    parts += [
        html.paragraph(
            f"{name}: mean over the groups {row['mean']:.2f} %, standard deviation {row['std']:.2f}, "
            f"largest gap {row['gap']:.2f} points."
        )
        for name, row in numbers.items()
        if {"mean", "std", "gap"} <= set(row)
    ]
    parts.append(_table("Templates: sets of images compared with sets of images.", numbers, templates))
    shown = [(name, text) for name, text in RENDERED.items() if any(key.partition(".")[0] == name for key in numbers)]
    if shown:
        parts.append(html.details("What the rendered benchmarks compare", html.table(["", "pairs"], shown, text=(1,))))
    for title, names in (
        ("ROC of each benchmark", [name for name in curves if "." not in name]),
        ("ROC within each group", [name for name in curves if "." in name]),
    ):
        if names:
            caption = (
                f"{title}: the share of genuine pairs that are accepted, at each share of impostor pairs that are."
            )
            parts.append(html.chart(charts.draw_roc({name: curves[name] for name in names}), title, caption))
    lead = "The trained network's numbers in percent: AUC is the area under the ROC, EER the error at which as many "
    lead += "genuine as impostor pairs are judged wrong, TAR the genuine pairs accepted at a false accept rate (FAR)."
    return html.section("results", "Results", lead, *parts)


def domain_gap(numbers: Numbers) -> str:
    """The same pairs in both looks: what realism transfer is to close. Nothing where they were not measured."""
    looks = {"raster look": "random-raster", "camera look": "random"}
    if not all("accuracy" in numbers.get(name, {}) for name in looks.values()):
        return ""
    accuracies = {look: float(numbers[name]["accuracy"]) for look, name in looks.items()}
    gap = accuracies["raster look"] - accuracies["camera look"]
    lead = (
        "The source is rendered in a raster look, the benchmarks in a camera look. The same protocol on both: the "
        f"network is {abs(gap):.2f} points {'worse' if gap > 0 else 'better'} on the camera look."
    )
    caption = "Accuracy on random pairs; a bar begins at chance, 50 %."
    return html.section("gap", "Domain gap", lead, html.bars(accuracies, caption, CHANCE, 100, "%"))


def images(samples: Mapping[str, np.ndarray]) -> str:
    """The sample sheets."""
    captions = {
        "source": "Source: images of chosen identities as they were fetched, an identity a row, from the one farthest "
        "from its nearest other to the one closest to it.",
        "target": "Target: images whose look the source is to take; they carry no labels in training.",
        "align": "Aligned: the same identities as the network sees them, after detection and warp to 112 x 112.",
    }
    parts = [html.picture(samples[name], f"Sample sheet: {name}", caption) for name, caption in captions.items()]
    return html.section("images", "Images", "Samples of what goes in.", *parts)


def conditioning(metrics: Metrics, plots: Path) -> str:
    """The gap between the domains in the generator's conditioning. Nothing for a method that has none."""
    if not metrics["images"]:
        return ""
    lead = (
        f"The mean conditioning of {metrics['images']:,} target images less that of as many source images; "
        f"{metrics['weight']:g} times it is added when images are generated. Shifted by what one half of the images "
        f"tells, the other half's Fréchet distance to the target is {metrics['frechet_after']:.4g} instead of "
        f"{metrics['frechet_before']:.4g}, and its maximum mean discrepancy {metrics['mmd_after']:.4g} instead of "
        f"{metrics['mmd_before']:.4g}."
    )
    tsne = "The conditioning of the images in two dimensions (t-SNE): source, source with the gap, target."
    sheet = "Images generated without and with the gap, of the same identity vectors and the same noise."
    return html.section(
        "conditioning",
        "Gap of the conditioning",
        lead,
        html.png(_read(plots / "tsne.png"), "t-SNE of the conditioning", tsne),
        html.picture(decode(_read(plots / "sheet.png")), "Sheet: without and with the gap", sheet),
    )


def synthesis(method: str, metrics: Metrics, plots: Path) -> str:
    """The generated images, and what the second encoder makes of them. Nothing where none were made."""
    if not metrics["images"]:
        return ""
    lead = f"{metrics['images']:,} images of {metrics['identities']:,} identities were made by the method {method}."
    rows = [(text, metrics[name], metrics[f"source_{name}"]) for name, text in JUDGED.items() if name in metrics]
    caption = (
        f"As seen by a second encoder, which the generator never met: {metrics['judged_images']:,} images of "
        f"{metrics['judged_identities']:,} identities, beside the same of their source images."
    )
    sheet = "Of each identity the first source image, and the images generated of it."
    return html.section(
        "synthesis",
        "Realism transfer",
        lead,
        html.table(["", "generated", "source"], rows, caption),
        html.picture(decode(_read(plots / "sheet.png")), "Sheet: source and generated images", sheet),
    )


def identities(knobs: Filter, metrics: Metrics, plots: Path) -> str:
    """How alike the identities are, and the closest pairs."""
    lead = (
        f"{metrics['chosen']:,} of {metrics['identities']:,} identities were chosen, by their "
        f"{'similarity to the nearest other' if knobs.score == 'max' else 'mean similarity to the others'}. "
        f"Pairs of identities above a cosine of {knobs.threshold:g}: {metrics['pairs_above_threshold']:,} among all, "
        f"{metrics['pairs_above_threshold_chosen']:,} among the chosen."
    )
    histogram = "How similar each identity's prototype, the mean embedding, is to that of its nearest other identity."
    closest = "The closest pairs of identities among all, chosen or not: numbers and cosine of the prototypes."
    return html.section(
        "identities",
        "Identities",
        lead,
        html.png(_read(plots / "filter.png"), "Histogram of similarities", histogram),
        html.picture(decode(_read(plots / "filter_pairs.png")), "Contact sheet of the closest identities", closest),
    )


def training(figure: Figure, metrics: Metrics) -> str:
    """The curves."""
    lead = (
        f"{metrics['identities']:,} identities, {metrics['images']:,} images, {metrics['steps']:,} steps; in the last "
        f"epoch the mean loss is {metrics['loss']:.4f} and the training accuracy {metrics['accuracy']:.2f} %."
    )
    caption = "Loss, accuracy on the training images (without the margin) and learning rate, over the epochs."
    return html.section("training", "Training", lead, html.chart(figure, "Training curves", caption))


def hardest_pairs(folder: Path) -> str:
    """What the network got most wrong, closed until opened. Nothing where there are no sheets."""
    found = [path for path in sorted(folder.glob("*.png")) if "." not in path.stem]
    caption = "With the cosine of the two images, one above the other."
    parts = [
        html.details(path.stem, html.picture(decode(_read(path)), f"Hardest pairs of {path.stem}", caption))
        for path in found
    ]
    lead = "Of each benchmark, the genuine pairs that score lowest and the impostor pairs that score highest."
    return html.section("pairs", "Hardest pairs", lead, *parts) if parts else ""


def all_numbers(metrics: Numbers) -> str:
    """Every stage's metrics."""
    tables = [html.table([stage, ""], list(values.items())) for stage, values in metrics.items()]
    lead = "What each stage measured, as in metrics/."
    return html.section("numbers", "All numbers", lead, f'<div class="columns">{"".join(tables)}</div>')


def _pairs(numbers: Numbers) -> list[str]:
    return [name for name, row in numbers.items() if "accuracy" in row and "." not in name]


def _table(caption: str, numbers: Numbers, names: list[str]) -> str:
    if not names:
        return ""
    columns = {"accuracy": "accuracy", "std": "± std", "auc": "AUC", "eer": "EER"}
    for kind, title in RATES.items():
        found = {key[len(kind) :] for name in names for key in numbers[name] if key.startswith(kind)}
        columns |= {kind + rate: f"{title} {rate}" for rate in sorted(found, key=float)}
    columns = {key: title for key, title in columns.items() if any(key in numbers[name] for name in names)}
    rows = [[name, *(_percent(numbers[name].get(key)) for key in columns)] for name in names]
    return html.table(["", *columns.values()], rows, caption)


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise StoreError(f"{path}: not there; run the stages before the report")
    return path.read_bytes()
