"""What a training says of its steps while it runs, to TensorBoard or DVCLive; both are optional."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from stages.knobs import ParamsError

Viewer = Literal["none", "tensorboard", "dvclive"]


def viewer(name: Viewer, folder: Path, start: int = 0) -> Callable[[int, Mapping[str, float]], None]:
    """What takes a step's number and its values.

    Args:
        name: `none` takes them nowhere.
        folder: where they are kept.
        start: the first step; what a killed run said of it and later ones is replaced, or by DVCLive said twice.

    Raises:
        ParamsError: it is not installed.
    """
    if name == "none":
        return lambda step, values: None
    try:
        return (_tensorboard if name == "tensorboard" else _dvclive)(folder, start)
    except ImportError as error:
        raise ParamsError(f"train.viewer is {name}, which is not installed: pip install 'render2real[view]'") from error


def _tensorboard(folder: Path, start: int) -> Callable[[int, Mapping[str, float]], None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=start)

    def say(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return say


def _dvclive(folder: Path, start: int) -> Callable[[int, Mapping[str, float]], None]:
    from dvclive import Live

    live = Live(str(folder), save_dvc_exp=False, report=None, resume=start > 0)

    def say(step: int, values: Mapping[str, float]) -> None:
        live.step = step
        for name, value in values.items():
            live.log_metric(name, value)
        live.make_summary()

    return say
