"""Where a run's numbers come from: what its stages made, by content; data, programs, and their licences."""

from __future__ import annotations

import platform
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.fetch.catalogue import format_size, load
from stages.report.pipeline import STAGES
from stages.store import StoreError, file_digest
from stages.timing import machine, revision, took

if TYPE_CHECKING:
    from stages.params import Params

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
SHIPPED = {
    "the embedded world": "people and looks of this project on MakeHuman's mesh; networks trained on them",
    "MTCNN": "detector weights, as David Sandberg and the package mtcnn distribute them",
    "Vega": "in the page of dvc plots diff: vega, vega-lite, vega-embed",
}
LICENSES = {"the embedded world": "MIT; the mesh CC0-1.0", "MTCNN": "MIT", "Vega": "BSD-3-Clause"}


def outputs(root: Path) -> list[list[str]]:
    """Stage, path, size and MD5 of what the stages before this one made, as dvc.lock has them; none without it.

    Raises:
        StoreError: dvc.lock is no such file.
    """
    path = root / "dvc.lock"
    if not path.is_file():
        return []
    try:
        stages = yaml.load(path.read_text(), yaml.CSafeLoader)["stages"]
        # in the order of the flow: that of the file is the order in which they happened to run
        run = sorted(stages.keys() - {"report"}, key=lambda name: ([*STAGES, name].index(name), name))
        made = [(name, out) for name in run for out in stages[name].get("outs", [])]
        return [[name, out["path"], format_size(out["size"]), out["md5"].removesuffix(".dir")] for name, out in made]
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: not what DVC writes ({error}); `git checkout dvc.lock` brings it back") from error


def data(params: Params) -> list[list[str]]:
    """Name, what it is, its licence and what may be published: all that was fetched or is shipped."""
    knobs = params.fetch
    names = dict.fromkeys([knobs.source, knobs.target, *knobs.benchmarks, *knobs.weights])
    entries = [entry for name in names if (entry := load().get(name))]
    others = [name for name in names if name not in load() and name != "embedded"]
    rows = [[entry.name, entry.what, entry.license.name, entry.license.publish] for entry in entries]
    rows += [[name, "by path", "its owner's", "ask its owner"] for name in others]
    return rows + [[name, what, LICENSES[name], "yes"] for name, what in SHIPPED.items()]


def programs() -> list[list[str]]:
    """Name, version and licence of Python and of the packages that this project asks for."""
    rows = [["Python", ".".join(platform.python_version_tuple()[:2]), "PSF-2.0"]]
    for name in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]:
        package = metadata.metadata(name)
        rows.append([package["Name"], package["Version"], _license(package)])
    return rows


def _license(package: Any) -> str:
    named = package.get("License-Expression") or ""
    classes = [text.rpartition(" :: ")[2] for text in package.get_all("Classifier") or [] if "License ::" in text]
    text = (package.get("License") or "").strip().splitlines()
    return named or ", ".join(classes) or (text[0] if text else "–")


def of_this_run(root: Path, stages: list[str]) -> dict[str, Any]:
    """What equal runs do not share: revision, machine, and what each stage took."""
    times = {stage: known for stage in stages if (known := took(stage, root))}
    rows = [
        [
            stage,
            _clock(known["seconds"]),
            _clock(known["processor"]),
            format_size(known["memory"]),
            known["machine"],
            known["revision"][:10] + ("*" if " " in known["revision"] else ""),
        ]
        for stage, known in times.items()
    ]
    sums = {name: sum(known[name] for known in times.values()) for name in ("seconds", "processor")}
    lock = root / "dvc.lock"
    return {
        "facts": {
            "git revision": revision(root) or "not in git",
            "dvc.lock, SHA-256": file_digest(lock) if lock.is_file() else "–",
            "this page's machine": machine(),
        },
        "times": rows,
        "sums": {name: _clock(value) for name, value in sums.items()},
        "unknown": [stage for stage in stages if stage not in times],
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{seconds:.1f} s"
    )
