"""Realism transfer: rendered identities in, images that look like the target domain out.

A method is a folder here, with its `Knobs` in `knobs.py` and its `Method` in `method.py`, a file in `conf/method/`, and
a line below; no other room knows which methods there are. `method.py` beside this file says what a method must do.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.knobs import check

if TYPE_CHECKING:
    from stages.params import Params
    from stages.transfer.method import Method

METHODS = (
    "none",
    "arc2face",
    "ddim",
    "codeformer",
    "decent",
    "stylegan",
    "synface",
    "unsb",
    "vsait",
)


def knobs_of(method: str) -> type[Any]:
    """The block of knobs of a method.

    Raises:
        ParamsError: there is no such method.
    """
    check(method in METHODS, f"method is {method!r}: one of {', '.join(METHODS)}")
    return importlib.import_module(f"stages.transfer.{method}.knobs").Knobs


def create(params: Params, root: Path = Path("."), device: str | None = None) -> Method:
    """The method that the knob `method` names, ready to make images; its data are read from `root`.

    Args:
        params: all knobs.
        root: the project's folder.
        device: of torch; default is what the method's own knob says.
    """
    module = importlib.import_module(f"stages.transfer.{params.method}.method")
    return module.Method(params, root, device)
