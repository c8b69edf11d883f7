import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from pydantic import Field

from stages.knobs import ParamsError, knob, knobs, pick_device
from stages.params import BLOCKS, Params
from stages.transfer import METHODS, knobs_of

Share = Annotated[float, Field(ge=0, le=1)]


@knobs("toy")
class Toy:
    count: int = knob(3, "things", ge=1, le=9)
    rate: float = knob(0.5, "a second", gt=0, lt=2)
    kind: Literal["round", "square"] = knob("round", "form")
    on: bool = knob(False, "whether")
    name: str = knob("x", "of it")
    shares: tuple[Share, ...] = knob((0.5,), "of it")


def test_a_block_is_frozen_typed_and_travels_between_processes():
    toy = Toy(count=4)
    with pytest.raises(FrozenInstanceError):
        toy.count = 5
    assert replace(toy, rate=1.0) == Toy(4, 1.0)
    assert pickle.loads(pickle.dumps(toy)) == toy
    with pytest.raises(ParamsError, match=r"toy\.count"):
        replace(toy, count=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, r"toy\.count is 0: at least 1"),
        ({"count": 10}, r"toy\.count is 10: at most 9"),
        ({"rate": 0}, r"toy\.rate is 0: greater than 0"),
        ({"rate": 2.0}, r"toy\.rate is 2\.0: less than 2"),
        ({"rate": math.inf}, r"toy\.rate is inf: a finite number"),
        ({"rate": math.nan}, r"toy\.rate is nan: a finite number"),
        ({"rate": "inf"}, r"toy\.rate is 'inf': a finite number"),
        ({"count": 1.5}, r"toy\.count is 1\.5: a whole number"),
        ({"count": "3"}, r"toy\.count is '3': .*int"),
        ({"count": True}, r"toy\.count is True: .*int"),
        ({"rate": True}, r"toy\.rate is True: .*float"),
        ({"rate": "fast"}, r"toy\.rate is 'fast'"),
        ({"on": 1}, r"toy\.on is 1: .*bool"),
        ({"on": "yes"}, r"toy\.on is 'yes': .*bool"),
        ({"name": 3}, r"toy\.name is 3"),
        ({"count": None}, r"toy\.count is None"),
        ({"kind": "flat"}, r"toy\.kind is 'flat': one of 'round' or 'square'"),
        ({"shares": [0.5, 1.5]}, r"toy\.shares\.1 is 1\.5: at most 1"),
        ({"shares": [math.nan]}, r"toy\.shares\.0 is nan"),
        ({"shares": [True]}, r"toy\.shares\.0 is True"),
        ({"shares": 0.5}, r"toy\.shares is 0\.5"),
        ({"count": 0, "rate": -1}, r"toy\.count is 0.*toy\.rate is -1"),
        ({"rates": 1.0}, r"toy\.rates: no such knob; did you mean toy\.rate\?"),
        ({"zzz": 1.0}, r"toy\.zzz: no such knob; there are count, kind, name, on, rate, shares"),
    ],
)
def test_a_wrong_value_names_knob_value_and_range(values, message):
    with pytest.raises(ParamsError, match=message):
        Toy(**values)


def test_a_number_counts_by_its_value():
    """`-S n_ids=1e4` arrives as 10000.0, `-S rate=1` as 1, and YAML takes 1e-3 for text."""
    assert Toy(count=4.0, rate=1) == Toy(count=4, rate=1.0)
    assert type(Toy(count=4.0).count) is int
    assert type(Toy(rate=1).rate) is float
    assert Toy(rate="1e-3").rate == 1e-3
    assert Toy(shares=[1, 0]).shares == (1.0, 0.0)


HOUSE = [Params, *BLOCKS.values(), *map(knobs_of, METHODS)]
BOUNDS = {"ge": lambda x: x - 1, "gt": lambda x: x, "le": lambda x: x + 1, "lt": lambda x: x}  # the first value beyond
UNBOUNDED = {"weight"}  # of the gap: it may be turned round


def ranges(cls: type) -> list[tuple[str, Any, dict[str, Any]]]:
    """(name, type, range) of each knob that is a number, or a row of numbers."""
    found = []
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if name not in cls.__pydantic_fields__:
            continue
        metadata = cls.__pydantic_fields__[name].metadata
        if get_origin(hint) is tuple:
            hint = get_args(hint)[0]
        if get_origin(hint) is Annotated:
            hint, info = get_args(hint)
            metadata = info.metadata
        if hint in (int, float):
            found.append(
                (name, hint, {bound: getattr(m, bound) for m in metadata for bound in BOUNDS if hasattr(m, bound)})
            )
    return found


def as_given(cls: type, name: str, value: float) -> Any:
    """A value, or of a row of numbers one that holds it."""
    default = cls.__pydantic_fields__[name].default
    return [value, *default[1:]] if isinstance(default, tuple) else value


@pytest.mark.parametrize("cls", HOUSE, ids=lambda cls: cls.__module__.removeprefix("stages."))
def test_every_number_of_the_house_has_a_range_and_keeps_it(cls):
    for name, kind, bounds in ranges(cls):
        assert name in UNBOUNDED or {"ge", "gt"} & bounds.keys(), f"{name} has no lower bound"
        wrong = [BOUNDS[bound](limit) for bound, limit in bounds.items()]
        for value in [*wrong, math.nan, math.inf, -math.inf, "many", None, True]:
            with pytest.raises(ParamsError, match=rf"\b{name}\b"):
                cls(**{name: as_given(cls, name, value)})
        if kind is int:
            with pytest.raises(ParamsError, match=rf"\b{name}\b"):
                cls(**{name: as_given(cls, name, 2.5)})


@pytest.mark.parametrize("cls", HOUSE, ids=lambda cls: cls.__module__.removeprefix("stages."))
def test_every_choice_and_name_of_the_house_is_checked(cls):
    for field in fields(cls):
        info = cls.__pydantic_fields__[field.name]
        assert info.description or cls is Params, f"{field.name} says nothing of itself"
        if get_origin(info.annotation) is Literal:
            with pytest.raises(ParamsError, match=rf"{field.name} is 'foo': one of"):
                cls(**{field.name: "foo"})
        with pytest.raises(ParamsError, match=rf"no such knob; did you mean .*\b{field.name}\?"):
            cls(**{f"{field.name}x": 1})


def test_the_device_is_one_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [pick_device(name, "x") for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ParamsError, match=r"toy\.device is cuda, and torch sees no GPU"):
        pick_device("cuda", "toy.device")
    with pytest.raises(ParamsError, match=r"toy\.device is 'gpu': auto, cpu or cuda"):
        pick_device("gpu", "toy.device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [pick_device(name, "x") for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
