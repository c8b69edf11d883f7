"""Torch checkpoints, read without running them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from stages.store import StoreError


def read_tensors(path: Path, device: str = "cpu", official: str = "") -> Any:
    """What a torch checkpoint holds, without running anything in it.

    Lightning keys a checkpoint's callbacks by their class (before 1.5, which wrote AdaFace's official files), and keeps
    hyperparameters in a dictionary of its own: its names get a stand-in. Any other name stops the reading.

    Args:
        path: the file.
        device: of torch, on which the tensors are to lie.
        official: where such a file comes from and under which licence, for who does not have it.

    Raises:
        StoreError: no such file, a broken one, or one that would run code when read.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such checkpoint{'; ' * bool(official)}{official}")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip, or broken: `torch.load` says what
        names = []
    ours = [name for name in names if name.startswith(("lightning.", "pytorch_lightning."))]
    stand_ins: list[Any] = [(OrderedDict if name.endswith("Dict") else _StandIn, name) for name in ours]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load promises no type
        if names and isinstance(error, pickle.UnpicklingError):
            raise StoreError(
                f"{path}: holds more than tensors ({', '.join(names)}), and reading it would run code. Where you trust "
                "it, convert it once: torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW)"
            ) from error
        cut = isinstance(error, pickle.UnpicklingError) or not str(error)
        reason = "cut, or of another kind" if cut else str(error).splitlines()[0]
        raise StoreError(f"{path}: not a readable torch checkpoint ({reason})") from error


class _StandIn:
    """In the place of an object that a checkpoint holds beside its tensors: takes anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass
