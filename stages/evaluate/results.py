"""What was measured, as typed rows: `flatten` makes them `metrics/evaluate.json`, `parse` reads it again.

A benchmark's accuracy bears its name alone, any other number `<name>.<field>` or `<name>.<field><point>`, such as
`lfw.auc` or `lfw.tar@far=1e-3`; the ends of a number's 95 % confidence interval are `<name>.low@<number>` and
`<name>.high@<number>`, such as `lfw.low@accuracy` or `lfw.high@tar@far=1e-3`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from stages.evaluate.benchmarks import ProtocolError

Numbers = dict[str, float | int | str]
KEYS = {"tar": "tar@far=", "val": "val@far=", "tpir": "tpir@fpir=", "rank": "rank"}  # measured at several points


@dataclass
class Row:
    """The numbers of a benchmark or of one of its groups, in % with two decimals; None or empty if not measured.

    Attributes:
        name: of the benchmark, `<benchmark>.<group>` of a group.
        accuracy, std: pairs: mean and standard deviation over the folds.
        mean, std, gap: groups: of the groups' accuracies, gap being the largest less the smallest.
        variant: templates: what an image contributes, such as N1D1F1.
        val: pairs: {FAR: validation rate over the folds}.
        auc, eer: of the curve; tar: {FAR: true accept rate}.
        no_face: images in which none was found, where one was sought; unused: images in no template.
        rank: {k: probes whose mate is among the first k}; tpir: {FPIR: probes whose mate is found}.
        intervals: {`accuracy`, `auc`, `mean`, `gap` or `tar@far=<FAR>`: ends of its 95 % confidence interval}.
    """

    name: str
    accuracy: float | None = None
    mean: float | None = None
    std: float | None = None
    gap: float | None = None
    variant: str | None = None
    auc: float | None = None
    eer: float | None = None
    tar: dict[float, float] = field(default_factory=dict)
    val: dict[float, float] = field(default_factory=dict)
    no_face: int | None = None
    unused: int | None = None
    rank: dict[int, float] = field(default_factory=dict)
    tpir: dict[float, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`pairs`, `templates`, or `groups` for the summary of groups, whose own rows are of pairs."""
        return "groups" if self.mean is not None else "templates" if self.variant is not None else "pairs"


FIELDS = {prefix: name for name, prefix in KEYS.items()}
POINT = re.compile(rf"(.+)\.({'|'.join(FIELDS)})(\d+(?:\.\d+)?(?:e-?\d+)?)")
PLAIN = tuple(one.name for one in fields(Row) if one.name not in ("name", "accuracy", "intervals", *KEYS))
END = re.compile(r"(.+)\.(low|high)@(accuracy|auc|mean|gap|tar@far=.+)")


def flatten(rows: Sequence[Row], protocol: str) -> Numbers:
    """The rows as one flat mapping, and the protocol.

    Raises:
        ProtocolError: a benchmark's name cannot be told from another's number.
    """
    flat: Numbers = {}
    for row in rows:
        if row.accuracy is not None:
            flat[row.name] = row.accuracy
        for one in fields(row)[2:]:
            value = getattr(row, one.name)
            if one.name in KEYS:
                flat |= {f"{row.name}.{KEYS[one.name]}{power(point)}": number for point, number in value.items()}
            elif one.name == "intervals":
                for number, (low, high) in value.items():
                    flat |= {f"{row.name}.low@{number}": low, f"{row.name}.high@{number}": high}
            elif value is not None:
                flat[f"{row.name}.{one.name}"] = value
    flat["protocol"] = protocol
    if (again := parse(flat)) != list(rows):
        known = {row.name for row in rows}
        names = sorted({row.name for row in again} ^ known or known)
        raise ProtocolError(f"a benchmark's name reads like another's number: rename {' or '.join(names)}")
    return flat


def parse(flat: Mapping[str, Any]) -> list[Row]:
    """The rows of a flat mapping, in its order.

    Raises:
        ValueError: something in the place of a number.
    """
    rows: dict[str, Row] = {}
    for key, value in flat.items():
        name, _, last = key.rpartition(".")
        if not isinstance(value, int | float) and key != "protocol" and last != "variant":
            raise ValueError(f"{key} is {value!r}, no number")
        if end := END.fullmatch(key):
            name, which, number = end.groups()
            ends = rows.setdefault(name, Row(name)).intervals
            low, high = ends.get(number, (value, value))
            ends[number] = (value, high) if which == "low" else (low, value)
        elif point := POINT.fullmatch(key):
            name, prefix, number = point.groups()
            getattr(rows.setdefault(name, Row(name)), FIELDS[prefix])[float(number)] = value
        elif name and last in PLAIN:
            setattr(rows.setdefault(name, Row(name)), last, value)
        elif key != "protocol":
            rows.setdefault(key, Row(key)).accuracy = value
    return list(rows.values())


def percent(share: float) -> float:
    """In percent, two decimals."""
    return round(100 * share, 2)


def power(value: float) -> str:
    """0.01 as `1e-2`; a whole number as it is."""
    return f"{value:g}" if value >= 1 else np.format_float_scientific(value, trim="-", exp_digits=1)
