"""What a run stands on: packages, processor, threads. As a script it prints JSON, under whichever Python runs it."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from importlib.metadata import distributions
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")


def versions() -> dict[str, str]:
    """Of this process: name -> version of each package, of Python, the kind of CPU, cores, and what sets threads."""
    packages = {normal(one.metadata["Name"]): one.version for one in distributions() if one.metadata["Name"]}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {"python": platform.python_version(), "CPU": processor(), "cores": str(cores)}
    return machine | {name: os.environ.get(name, "unset") for name in THREADS} | packages


def processor() -> str:
    """The kind of CPU."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def pinned(constraints: Path) -> dict[str, str]:
    """Name -> version of each package that a constraints file pins; none where there is no file."""
    text = constraints.read_text() if constraints.is_file() else ""
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}


def normal(name: str) -> str:
    """A package's name as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    json.dump(versions(), sys.stdout)
