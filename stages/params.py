"""All knobs of a run: `params.yaml`, read once into frozen blocks and checked before anything is written.

Only `conf/` is edited; `params.yaml` is composed from it (`make params`). A block is declared beside its stage, with
each knob's unit, range and meaning; `transfer` is that of the chosen method.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from stages.align.knobs import Align
from stages.embed.knobs import Embed
from stages.evaluate.knobs import Evaluate
from stages.fetch.knobs import Fetch
from stages.filter import Filter
from stages.fit import Fit
from stages.gap import Gap
from stages.judge import Judge
from stages.knobs import ParamsError, check, knob, knobs
from stages.report.knobs import Report
from stages.synthesize import Synthesize
from stages.train.knobs import DigiFace, Real, Train
from stages.transfer import knobs_of

BLOCKS = {
    "fetch": Fetch,
    "embed": Embed,
    "filter": Filter,
    "gap": Gap,
    "fit": Fit,
    "synthesize": Synthesize,
    "judge": Judge,
    "align": Align,
    "train": Train,
    "real": Real,
    "digiface": DigiFace,
    "evaluate": Evaluate,
    "report": Report,
}
LARGEST = 10**8  # identities: more than the embedded world's ranges hold


@knobs("")
class Params:
    """All knobs. The six at the top are the ones people type."""

    profile: str = knob("embedded", "a file of conf/profile")
    method: str = knob("none", "a file of conf/method")
    n_ids: int = knob(200, "identities that are trained on", ge=2, le=LARGEST)
    images_per_id: int = knob(10, "images of each", ge=1)
    alpha: float = knob(2.0, "of Beta(alpha, alpha); the paper's choice (table 2)", gt=0)
    seed: int = knob(0, "of sampling and training", ge=0, lt=2**31)
    transfer: Any = knob(None, "of the method")
    fetch: Fetch = knob(Fetch(), "")
    embed: Embed = knob(Embed(), "")
    filter: Filter = knob(Filter(), "")
    gap: Gap = knob(Gap(), "")
    fit: Fit = knob(Fit(), "")
    synthesize: Synthesize = knob(Synthesize(), "")
    judge: Judge = knob(Judge(), "")
    align: Align = knob(Align(), "")
    train: Train = knob(Train(), "")
    real: Real = knob(Real(), "")
    digiface: DigiFace = knob(DigiFace(), "")
    evaluate: Evaluate = knob(Evaluate(), "")
    report: Report = knob(Report(), "")

    def __post_init__(self) -> None:
        kind = knobs_of(self.method)
        if self.transfer is None:
            object.__setattr__(self, "transfer", kind())
        check(
            isinstance(self.transfer, kind),
            f"the block transfer is of another method than {self.method}: choose one with `-S method={self.method}`",
        )
        self.transfer.check(self)


def parse(values: dict[str, Any]) -> Params:
    """Build all blocks from plain YAML values: unknown and mistyped knobs are errors that name themselves.

    Raises:
        ParamsError: a knob that does not exist, or with a value that it cannot have.
    """
    blocks = BLOCKS | {"transfer": knobs_of(values.get("method", "none"))}
    check(
        "arc2face" not in values,
        "the block arc2face is called transfer now, whatever the method: run `make params`, and type `-S transfer.…`",
    )
    built = {}
    for name, kind in blocks.items():
        block = values.get(name, {})
        check(isinstance(block, dict), f"{name} is {block!r}: a block of knobs was expected")
        built[name] = kind(**block)
    return Params(**{**values, **built})


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check `params.yaml`.

    Raises:
        ParamsError: no such file, or a knob that does not exist or has a value that it cannot have.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: not found; run from the project's root, or compose it with `make params`")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML ({error})") from error
    check(isinstance(values, dict), f"{path}: no mapping of knobs")
    try:
        return parse(values)
    except ParamsError as error:
        raise ParamsError(
            f"{error} (in {path}; `git checkout {path}` or `make params` brings back one that works)"
        ) from None


def top(params: Params) -> dict[str, Any]:
    """The knobs that are in no block, by name."""
    aside = {*BLOCKS, "transfer"}
    return {field.name: getattr(params, field.name) for field in fields(params) if field.name not in aside}


def compose(overrides: list[str], conf: Path = Path("conf")) -> str:
    """Compose `params.yaml` from `conf/` as `dvc exp run -S` does, and check it.

    Args:
        overrides: Hydra overrides, such as `profile=smoke` or `n_ids=40`.
        conf: the folder of config.yaml and the groups.

    Returns:
        The text of params.yaml.
    """
    from tempfile import TemporaryDirectory

    from dvc.utils.hydra import compose_and_dump

    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        compose_and_dump(path, str(conf.resolve()), None, "config", "", overrides)
        load(path)
        return path.read_text()
