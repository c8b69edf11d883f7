"""What a knob is: typed, with its range and meaning declared in one place, and checked before anything is written.

A stage declares its block beside itself:

    @knobs("filter")
    class Filter:
        score: Literal["max", "mean"] = knob("max", "cosine similarity to the nearest other identity, or to all")
        threshold: float = knob(0.5, "cosine; pairs above it are counted", ge=-1, le=1)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

T = TypeVar("T")

Device = Literal["auto", "cpu", "cuda"]
PRECISIONS = ("fp32", "bf16", "fp16")
Precision = Literal["fp32", "bf16", "fp16"]
Codec = Literal["png", "jpeg", "webp"]
EXPECTED = {  # pydantic's kinds of fault in our words; others in its own
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "one of {expected}",
    "finite_number": "a finite number",
    "int_from_float": "a whole number",
}


class ParamsError(ValueError):
    """A knob with a value it cannot have; the message names the knob, the value and the range."""


def check(condition: bool, message: str) -> None:
    """Raise `ParamsError(message)` unless the condition holds."""
    if not condition:
        raise ParamsError(message)


def knob(default: Any, description: str, **range: Any) -> Any:
    """A field of a block: its default, what it means with its unit, and its range as pydantic's `Field` takes it."""
    return Field(default, description=description, **range)


@dataclass_transform(frozen_default=True)
def knobs(block: str) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen block of knobs, whose errors name the knob as it is typed, `<block>.<name>`.

    A whole float is taken for an int (`-S n_ids=1e4` arrives as 10000.0), and an int for a float; nothing else is
    converted.
    """
    config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=False, str_strip_whitespace=False)
    prefix = f"{block}." if block else ""

    def wrap(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, config=config)(cls)
        build = made.__init__

        def init(self: Any, *args: Any, **values: Any) -> None:
            names = [field.name for field in fields(made)]
            for name in values:
                check(name in names, _no_such(prefix, name, names))
            given = dict(zip(names, args, strict=False)) | values
            for name, value in given.items():
                _check_type(made, name, value, prefix)
            try:
                build(self, **given)
            except ValidationError as error:
                raise ParamsError("; ".join(_say(prefix, fault) for fault in error.errors())) from None

        made.__init__ = init
        return made

    return wrap


def _no_such(prefix: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(sorted(names))}"
    return f"{prefix}{name}: no such knob; {hint}"


def _check_type(cls: type, name: str, value: Any, prefix: str) -> None:
    """Refuse what pydantic would convert: text for a number, a truth value for a number, a number for a truth value."""
    kind = cls.__dataclass_fields__[name].type  # type: ignore[attr-defined]
    text = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    number = text in ("int", "float")
    check(
        not (number and isinstance(value, bool)) and not (text == "bool" and not isinstance(value, bool)),
        f"{prefix}{name} is {value!r}: a value of type {text} was expected",
    )
    if text == "int":
        check(not isinstance(value, str), f"{prefix}{name} is {value!r}: a value of type int was expected")
    for place, one in enumerate(value if isinstance(value, list | tuple) else ()):
        check(not isinstance(one, bool), f"{prefix}{name}.{place} is {one!r}: a truth value was not expected")


def _say(prefix: str, fault: Any) -> str:
    if fault["type"] == "value_error":  # of a check that sees several knobs, and names them
        return str(fault["ctx"]["error"])
    name = ".".join(str(place) for place in fault["loc"])
    expected = EXPECTED[fault["type"]].format(**fault.get("ctx", {})) if fault["type"] in EXPECTED else fault["msg"]
    return f"{prefix}{name} is {fault['input']!r}: {expected}"


def pick_device(name: str, knob: str) -> str:
    """What `auto`, `cpu` or `cuda` means on this machine: `cpu` or `cuda`.

    Raises:
        ParamsError: `cuda` without a GPU; the message names the knob.
    """
    import torch  # here, so that `r2r --help` does not wait for it

    check(name in ("auto", "cpu", "cuda"), f"{knob} is {name!r}: auto, cpu or cuda")
    gpu = torch.cuda.is_available()
    check(name != "cuda" or gpu, f"{knob} is cuda, and torch sees no GPU: set it to cpu or auto")
    return "cuda" if gpu and name != "cpu" else "cpu"
