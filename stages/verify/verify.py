"""Run the committed state from nothing twice, and say where the two runs begin to differ.

r2r verify                                  # the smoke profile
r2r verify profile=embedded seed=1          # any other, as `r2r params` takes it
r2r verify --committed                      # params.yaml as it is, once, beside dvc.lock
r2r verify --env OMP_NUM_THREADS=1          # the second run under another setting
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from stages.knobs import check
from stages.store import StoreError
from stages.verify.contents import differences
from stages.verify.runs import Run, committed, fresh

FILES, LINES = 8, 6  # shown of a stage and of a file; the others are counted


def verify(
    root: Path,
    overrides: Sequence[str] = (),
    *,
    beside_lock: bool = False,
    python: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> bool:
    """Run twice, or once beside the committed dvc.lock, and print what differs.

    Args:
        root: the project.
        overrides: Hydra overrides; none leaves params.yaml as it is committed.
        beside_lock: the first run is the one that dvc.lock is of.
        python: the second run's interpreter; default: this one.
        variables: of the second run's environment.

    Returns:
        Whether every hash is equal. The clones are removed then, and kept where they differ.

    Raises:
        ParamsError: overrides beside dvc.lock, which is of params.yaml as it is.
        StoreError: what stopped a run.
    """
    check(not (beside_lock and overrides), "--committed is params.yaml as it is: leave the overrides away")
    if changed := uncommitted(root):
        print(f"not committed, so not verified:\n{changed}", file=sys.stderr)
    place = Path(tempfile.mkdtemp(prefix="r2r-verify-"))
    own = Path(sys.executable)
    if beside_lock:
        first = committed(root, place / "1")
    else:
        print(f"run 1 of 2, in {place}/1", file=sys.stderr)
        first = fresh("run 1", root, place / "1", overrides, own, {})
    print(f"run 2 of 2, in {place}/2", file=sys.stderr)
    second = fresh("run 2", root, place / "2", overrides, python or own, variables or {})
    if lines := list(explain(first, second)):
        print("\n".join([*lines, versions_apart(first, second), f"both are kept in {place}"]))
        return False
    outputs = sum(len(hashes(stage, "outs")) for stage in second.stages.values())
    print(f"{len(second.stages)} stages, {outputs} outputs: equal to the bit in {first.name} and {second.name}")
    shutil.rmtree(place)
    return True


def uncommitted(root: Path) -> str:
    """What git says of tracked files that were changed since the last commit.

    Raises:
        StoreError: the project is not in git.
    """
    command = ["git", "status", "--porcelain", "--untracked-files=no"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise StoreError(f"{root}: {done.stderr.strip()}; what is verified is the last commit")
    return done.stdout.rstrip()


def explain(first: Run, second: Run) -> Iterator[str]:
    """Lines on each stage that differs, those first at which it begins; none where all hashes are equal."""
    one, other = first.stages, second.stages
    for name in sorted(one.keys() ^ other.keys()):
        yield f"{name}: a stage of {(first if name in one else second).name} alone"
    begins, follows = [], []
    for name in (name for name in other if name in one):
        given = inputs_apart(one[name], other[name])
        made = apart(hashes(one[name], "outs"), hashes(other[name], "outs"))
        if not given and made:
            begins.append(f"{name}: here it begins; its code, inputs and parameters are equal in both")
            begins += _outputs(made, first, second)
        elif given:
            follows.append(f"{name}: differs in what it is given ({', '.join(given)})")
            follows += _outputs(made, first, second) if made else ["  and gives the same nevertheless"]
    yield from begins + follows


def hashes(stage: Mapping[str, Any], side: str) -> dict[str, str]:
    """Path -> hash of a stage's `deps` or `outs`, as dvc.lock states them."""
    return {entry["path"]: str(entry.get(entry.get("hash", "md5"), "none")) for entry in stage.get(side, [])}


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that one of the two lacks."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def inputs_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What a stage was given differently: the names of dependencies and parameters, or its command."""
    knobs = [
        {f"{file}:{key}": value for file, block in stage.get("params", {}).items() for key, value in block.items()}
        for stage in (one, other)
    ]
    command = [] if one.get("cmd") == other.get("cmd") else ["its command"]
    return command + apart(hashes(one, "deps"), hashes(other, "deps")) + apart(*knobs)


def _outputs(paths: Sequence[str], first: Run, second: Run) -> Iterator[str]:
    """Lines on the files of a stage's outputs that differ."""
    one, other = (
        {
            file: digest
            for stage in run.stages.values()
            for path, digest in hashes(stage, "outs").items()
            if path in paths
            for file, digest in run.files(path, digest).items()
        }
        for run in (first, second)
    )
    files = apart(one, other)
    for file in files[:FILES]:
        lines = list(_file(file, one.get(file), other.get(file), first, second))
        yield from [f"  {file}: {line}" for line in lines[:LINES]]
        if len(lines) > LINES:
            yield f"  {file}: and {len(lines) - LINES} parts more"
    if len(files) > FILES:
        yield f"  and {len(files) - FILES} files more"


def versions_apart(first: Run, second: Run) -> str:
    """What the two runs stand on: the versions that differ of those known of both, or that none does."""
    known = [name for name in first.versions if name in second.versions]
    lines = [
        f"  {name}: {first.versions[name]} | {second.versions[name]}"
        for name in known
        if first.versions[name] != second.versions[name]
    ]
    kind = f"on {second.versions['CPU']}" + ("" if "CPU" in known else f"; of {first.name}'s machine nothing is known")
    return "\n".join([f"versions that differ, of {len(known)} known of both ({kind}):", *(lines or ["  none"])])


def _file(path: str, one: str | None, other: str | None, first: Run, second: Run) -> Iterator[str]:
    if one is None or other is None:
        yield f"of {(second if one is None else first).name} alone"
        return
    contents = [run.read(path, digest) for run, digest in ((first, one), (second, other))]
    if contents[0] is None or contents[1] is None:
        lacking = first if contents[0] is None else second
        yield f"{one} | {other}; {lacking.name}'s content is not at hand: `dvc pull` gets it where a remote has it"
        return
    yield from differences(contents[0], contents[1], PurePosixPath(path).suffix.lower())
