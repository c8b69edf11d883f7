"""What each knob means: of each block its names, defaults, ranges and meanings, read off where they are declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from stages.knobs import check
from stages.params import BLOCKS, Params
from stages.transfer import METHODS, knobs_of

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}
ENDLESS = 1e38  # a limit beyond this says nothing


def blocks() -> dict[str, type[Any]]:
    """Name -> block: the top, the stages in their order, and `transfer` of each method that has any."""
    found = {"": Params} | BLOCKS
    return found | {f"transfer ({method})": knobs_of(method) for method in METHODS if _fields(knobs_of(method))}


def rows(block: type[Any]) -> list[tuple[str, str, str, str]]:
    """Of each knob its name, default, range and meaning."""
    return [
        (name, _plain(field.default), _range(field), field.description or "")
        for name, field in _fields(block).items()
        if field.description
    ]


def as_markdown(names: Sequence[str] = ()) -> str:
    """A table for each block, or for those of these names.

    Raises:
        ParamsError: there is no such block.
    """
    found, lines = blocks(), []
    known = list(dict.fromkeys(name.split()[0] for name in found if name))
    for name in names:
        check(name in known, f"there is no block {name}: {', '.join(known)} are")
    for name, block in found.items():
        if names and name.split(" ")[0] not in names:
            continue
        lines += [
            f"### `{name}`" if name else "### At the top",
            "",
            "| knob | default | range | |",
            "|---|---|---|---|",
        ]
        lines += [f"| `{knob}` | {default} | {limits} | {what} |" for knob, default, limits, what in _escaped(block)]
        lines.append("")
    return "\n".join(lines).rstrip()


def _escaped(block: type[Any]) -> list[list[str]]:
    return [[cell.replace("|", "\\|") for cell in row] for row in rows(block)]


def _fields(block: type[Any]) -> dict[str, Any]:
    return block.__pydantic_fields__


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value) if value != "" else '""'


def _range(field: Any) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(str, get_args(field.annotation)))
    limits = [
        (sign, getattr(one, kind)) for one in field.metadata for kind, sign in SIGNS.items() if hasattr(one, kind)
    ]
    return ", ".join(f"{sign} {value:g}" for sign, value in limits if abs(value) < ENDLESS)
