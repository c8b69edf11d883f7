"""What a stage's run took, on which machine and of which revision: kept in the cache, by the numbers that it gave.

No output says any of it: equal runs give equal bytes, however long they take.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stages.run.executors import cores
from stages.store import cache_folder, write_json

FOLDER = "timing"  # of the cache


@contextmanager
def timed(stage: str, root: Path = Path(".")) -> Iterator[None]:
    """Keep what the block took, beside what earlier runs with these numbers took; the longest found least in the cache.

    Seconds of the clock and of all processors, and the memory of the largest process in bytes.
    """
    begin, used = time.perf_counter(), _processor()
    yield
    seconds, processor = time.perf_counter() - begin, _processor() - used
    if (path := _place(stage, root)) and seconds > (read(path) or {"seconds": 0})["seconds"]:
        usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        memory = max(usage) * (1 if sys.platform == "darwin" else 1024)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        figures = {"seconds": round(seconds, 1), "processor": round(processor, 1), "memory": memory, "when": when}
        write_json(path, figures | {"machine": machine(), "revision": revision(root)})


def took(stage: str, root: Path = Path(".")) -> dict[str, Any] | None:
    """What the longest run took that gave the numbers which stand in `metrics/`; none where no run is known."""
    path = _place(stage, root)
    return read(path) if path else None


def read(path: Path) -> dict[str, Any] | None:
    """What was kept; none where there is no whole one."""
    try:
        kept = json.loads(path.read_text())
        return kept if {"seconds", "processor", "memory", "machine", "revision"} <= kept.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def machine() -> str:
    """Processor, cores, memory and GPUs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = []
    if torch := sys.modules.get("torch"):
        gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([name, f"{cores()} cores", f"{memory:.0f} GiB", *gpus])


def revision(root: Path = Path(".")) -> str:
    """The git revision, and whether files differ from it; empty where there is no repository."""
    try:
        head = _git(root, "rev-parse", "HEAD")
        # an experiment's own files change while it runs
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "stages", "conf", "dvc.yaml")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + (" and changes that are not committed" if changed else "")


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=True, text=True).stdout.strip()


def _processor() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _place(stage: str, root: Path) -> Path | None:
    metrics = root / f"metrics/{stage}.json"
    if not metrics.is_file():
        return None
    digest = hashlib.sha256(metrics.read_bytes()).hexdigest()
    return cache_folder() / FOLDER / f"{stage}-{digest[:16]}.json"
