"""What a run has, what it lacks and what it will take, before it starts: `r2r doctor --profile paper`.

Each stage says what it costs (`cost`), the method for its own. Times are estimates: floating-point operations over the
rate of this machine's convolutions. They tell minutes from days.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from stages.fetch.costs import SPARE, findings, format_size, free_space
from stages.run.machine import Machine
from stages.train.costs import gpu_bytes

if TYPE_CHECKING:
    from stages.params import Params

COSTS = (  # in the order in which data flows
    "stages.fetch.costs",
    "stages.embed.stage",
    "stages.gap",
    "stages.synthesize",
    "stages.judge",
    "stages.align.stage",
    "stages.train.costs",
    "stages.evaluate.costs",
)
MEMORY = 6e9  # bytes
A_READER = 0.5e9  # bytes of a process that reads and augments
BYTES_PER_PIXEL = {"png": 1.6, "jpeg": 0.37, "webp": 0.25}  # of photographs, quality 95
STYLES = {"present": "green", "missing": "yellow", "wrong": "red", "licence": "red", "by hand": "red"}


def examine(params: Params, root: Path = Path("."), console: Console | None = None) -> bool:
    """Print what is there, missing, wrong or bound by a licence, what the machine has, and how long each stage takes.

    Returns:
        Whether the run can start: nothing is missing, and disk, memory and GPU are large enough.
    """
    console = console or Console()
    found = [*findings(params, root), *_paths(params, root)]
    things = _table(console, f"profile {params.profile}, method {params.method}", "thing", "state", "to fetch", "")
    for name, state, todo, detail in found:
        things.add_row(name, f"[{STYLES[state]}]{state}[/]", format_size(todo) if todo else "", detail)
    console.print(things)

    machine = Machine()
    todo = sum(bytes_ for _, _, bytes_, _ in found)
    rows = [_disk(params, root, todo), *_machine(params, machine)]
    parts = _table(console, "\nmachine", "", "needs about", "has")
    for name, needs, has, enough in rows:
        parts.add_row(name, needs, f"[{'green' if enough else 'red'}]{has}[/]")
    console.print(parts)

    works = _table(console, "\nstages", "stage", "about", "of")
    for module in map(importlib.import_module, COSTS):
        if work := module.cost(params, root, machine):
            works.add_row(module.__name__.split(".")[1], format_time(work.seconds), work.what)
    console.print(works)

    lacking = [name for name, state, _, _ in found if state != "present"]
    small = [name for name, _, _, enough in rows if not enough]
    if lacking:
        how = f"`dvc exp run -S profile={params.profile}` gets what is missing" if todo else "see above"
        console.print(f"\n[yellow]lacks {', '.join(lacking)}[/]: {how}")
    if small:
        console.print(f"\n[red]too small: {', '.join(small)}[/]")
    return not lacking and not small


def _table(console: Console, title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column == "to fetch" else "left", overflow="fold")
    return table


def _paths(params: Params, root: Path) -> Iterator[tuple[str, str, int, str]]:
    """(knob, state, 0, path) of the files that knobs name and no stage makes."""
    named = {"embed.encoder": params.embed.encoder}
    if params.transfer.makes_images:
        named |= {"judge.encoder": params.judge.encoder}
        named |= {f"transfer.{name}": path for name, path in params.transfer.paths().items()}
    for knob, path in named.items():
        if path and not path.startswith("data/"):
            yield knob, "present" if (root / path).exists() else "missing", 0, path


def _disk(params: Params, root: Path, todo: int) -> tuple[str, str, str, bool]:
    images = params.n_ids * params.images_per_id
    made = params.transfer.side**2 * BYTES_PER_PIXEL[params.synthesize.codec] * params.transfer.makes_images
    needs = int(todo + images * (made + 112**2 * BYTES_PER_PIXEL[params.align.codec]))
    free = free_space(root)
    return "disk", format_size(needs), f"{format_size(free)} free", needs + SPARE <= free


def _machine(params: Params, machine: Machine) -> Iterator[tuple[str, str, str, bool]]:
    """(part, what is needed, what there is, whether that is enough)."""
    import torch

    memory = MEMORY + params.train.workers * A_READER
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield "memory", format_size(memory), format_size(has), has >= memory
    yield "cores", "", str(machine.cores), True
    if not torch.cuda.is_available():
        yield "GPU", "", "none: all runs on the CPU", True
        return
    name, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    needs = max(gpu_bytes(params), params.transfer.a_gpu * params.transfer.gpu_bytes)
    yield "GPU", format_size(needs), f"{name}, {format_size(size)}", size >= needs


def format_time(seconds: float) -> str:
    """Seconds as `4 min`."""
    for unit, length in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
