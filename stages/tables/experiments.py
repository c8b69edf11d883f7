"""Rows as DVC experiments: which have been run, and running the others by `dvc queue`.

An experiment is a row's if its `params.yaml` says what the row's settings compose to, whichever table it was made for,
and if the code that it ran is what lies here (`code`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from stages.store import StoreError

CONFIGURATION = ("conf", "dvc.yaml", "stages/tables/people.py")
LINE = re.compile(r"^(\w{7}) +(\S+) .* (Queued|Running|Failed|Success) *$", re.M)  # of `dvc queue status`
POLL, ASK = 2.0, 20.0  # seconds between looks at git, and between questions to DVC, which takes seconds to answer
STARTED = 30.0  # seconds in which a worker has answered


@dataclass(frozen=True)
class Experiment:
    """A finished one.

    Attributes:
        name: of the experiment.
        revision: the commit that it started from.
        metrics: of each stage, `metrics/<stage>.json`.
    """

    name: str
    revision: str
    metrics: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Wish:
    """An experiment to run: its name, its overrides, files that lie outside git and that it reads."""

    name: str
    overrides: tuple[str, ...]
    files: tuple[str, ...] = ()


def digest(values: Any) -> str:
    """Of plain values, such as the content of a params.yaml: 12 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def code(root: Path, revision: str | None = None) -> str:
    """What numbers depend on but parameters, of a commit or of the working folder: the stages' code, and conf/."""
    identity = ("-c", "user.name=r2r", "-c", "user.email=r2r@localhost")
    commit = revision or _git(root, *identity, "stash", "create").strip() or "HEAD"  # makes an object, stashes nothing
    read = {dep for name, stage in _stages(root).items() if name != "report" for dep in stage["deps"]}
    paths = sorted({dep for dep in read if dep.startswith("stages/")} | set(CONFIGURATION))
    return digest(_git(root, "ls-tree", "-r", commit, "--", *paths))


def finished(root: Path, now: str) -> dict[str, Experiment]:
    """Digest of the parameters -> experiment, of all whose code is `now`."""
    listing = _git(root, "for-each-ref", "refs/exps", "--format=%(refname) %(objectname) %(parent)")
    refs = [line.split() for line in listing.splitlines() if re.match(r"refs/exps/\w\w/\w{38}/", line)]
    found = {}
    for ref, commit, parent in refs:
        if code(root, commit) != now:
            continue
        metrics = {}
        for stage in _stages(root):
            if text := _show(root, f"{commit}:metrics/{stage}.json"):
                metrics[stage] = json.loads(text)
        values = yaml.safe_load(_show(root, f"{commit}:params.yaml"))
        found[digest(values)] = Experiment(ref.rpartition("/")[2], parent[:12], metrics)
    return found


def taken(root: Path) -> set[str]:
    """The names of all experiments, whatever they were started from."""
    return {ref.rpartition("/")[2] for ref in _git(root, "for-each-ref", "refs/exps", "--format=%(refname)").split()}


def queue(root: Path) -> dict[str, tuple[str, str]]:
    """Name -> task and state of what is in DVC's queue."""
    return {name: (task, state) for task, name, state in LINE.findall(_dvc(root, "queue", "status"))}


def run(root: Path, wishes: Sequence[Wish], jobs: int, gpus: int = 0) -> list[str]:
    """Queue the experiments, but for those that are queued already, and wait for them.

    Args:
        root: the project's folder.
        wishes: in the order in which they are run.
        jobs: how many at a time.
        gpus: with more than one, each job has one of its own.

    Returns:
        The names of those that failed.
    """
    states = queue(root)
    for wish in tqdm(wishes, "queue", unit="experiments", leave=False):
        task, state = states.get(wish.name, ("", ""))
        if state in ("Queued", "Running"):
            continue
        if task:
            _dvc(root, "queue", "remove", task)
        words = [word for override in wish.overrides for word in ("-S", override)]
        copied = [word for file in wish.files for word in ("-C", file)]
        _dvc(root, "exp", "run", "--queue", "--name", wish.name, *copied, *words)
    start(root, min(jobs, len(wishes)), gpus)
    try:
        return wait(root, [wish.name for wish in wishes])
    except KeyboardInterrupt:
        print("what runs goes on: `dvc queue stop` ends it after the current experiments, `dvc queue kill` at once")
        raise


def start(root: Path, jobs: int, gpus: int) -> None:
    """Start DVC's workers, in the background; each with a GPU of its own where there are several."""
    if gpus < 2:
        _dvc(root, "queue", "start", "-j", str(jobs))
        return
    for number in range(1, jobs + 1):
        _dvc(root, "queue", "start", "-j", str(number), CUDA_VISIBLE_DEVICES=str((number - 1) % gpus))
        deadline = time.monotonic() + STARTED
        while _workers(root) < number and time.monotonic() < deadline:  # else the next call starts this one again
            time.sleep(1)


def wait(root: Path, wanted: Iterable[str]) -> list[str]:
    """Wait until all have ended, with a bar.

    Returns:
        Those that did not become an experiment.
    """
    left, asked, idle = set(wanted), time.monotonic(), 0
    with tqdm(total=len(left), desc="run", unit="experiments") as bar:
        while left:
            time.sleep(POLL)
            left, before = left - taken(root), len(left)
            bar.update(before - len(left))
            if left and time.monotonic() - asked > ASK:
                states, asked = queue(root), time.monotonic()
                going = {name for name in left if states.get(name, ("", ""))[1] in ("Queued", "Running")}
                idle = 0 if going else idle + 1
                if idle == 2:  # once may be between a task's start and DVC's word of it
                    return sorted(left - taken(root))
    return []


def _workers(root: Path) -> int:
    found = re.search(r"Worker status: (\d+) active, (\d+) idle", _dvc(root, "queue", "status"))
    return sum(map(int, found.groups())) if found else 0


@cache
def _stages(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "dvc.yaml").read_text())["stages"]


def _show(root: Path, name: str) -> str:
    """A file of a commit; empty where there is none."""
    return subprocess.run(["git", "show", name], cwd=root, capture_output=True, text=True).stdout


def _git(root: Path, *words: str) -> str:
    return _run(root, "git", *words)


def _dvc(root: Path, *words: str, **environment: str) -> str:
    return _run(root, sys.executable, "-m", "dvc", *words, **environment)


def _run(root: Path, *words: str, **environment: str) -> str:
    """What a command prints.

    Raises:
        StoreError: it failed; with what it said.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # DVC's workers look for `dvc` there
    done = subprocess.run(
        words, cwd=root, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise StoreError(f"{' '.join(words[:6])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
