"""A run from nothing in a clone of the committed state, and what it left: dvc.lock, DVC's cache, versions."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.store import StoreError
from stages.verify import versions

STDERR = 2  # what commands say: the output is the explanation's


@dataclass(frozen=True)
class Run:
    """What a run left.

    Attributes:
        name: for messages.
        folder: where it ran, or a clone of where it was committed.
        cache: DVC's, which has its outputs by their hashes.
        versions: what it stood on, as far as that is known.
    """

    name: str
    folder: Path
    cache: Path
    versions: Mapping[str, str]

    @property
    def stages(self) -> dict[str, Any]:
        """The stages of dvc.lock."""
        return yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]

    def files(self, path: str, digest: str) -> dict[str, str]:
        """The files of an output and the hash of each; a folder that is nowhere at hand is one file."""
        if not digest.endswith(".dir"):
            return {path: digest}
        listing = self._cached(digest)
        if not listing.is_file():
            return {path: digest}
        return {f"{path}/{file['relpath']}": file["md5"] for file in json.loads(listing.read_text())}

    def read(self, path: str, digest: str) -> bytes | None:
        """A file's bytes, from the cache, or where it lies in git; none where they are nowhere at hand."""
        for place in (self._cached(digest), self.folder / path):
            if (
                place.is_file()
                and hashlib.md5((content := place.read_bytes()), usedforsecurity=False).hexdigest() == digest
            ):
                return content
        return None

    def _cached(self, digest: str) -> Path:
        return self.cache / "files/md5" / digest[:2] / digest[2:]


def clone(root: Path, folder: Path) -> None:
    """Clone the committed state of the project.

    Raises:
        StoreError: it is not in git, or has no dvc.yaml.
    """
    _call(["git", "clone", "-q", str(root.absolute()), str(folder)], root, _environment(Path(sys.executable)))
    if not (folder / "dvc.yaml").is_file():
        raise StoreError(f"{root}: no dvc.yaml in its last commit")


def committed(root: Path, folder: Path) -> Run:
    """The run that the committed dvc.lock is of, in a clone; its outputs are in the project's own cache, if at all."""
    clone(root, folder)
    if not (folder / "dvc.lock").is_file():
        raise StoreError(f"{root}: no dvc.lock in its last commit")
    found = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True)
    return Run("dvc.lock", folder, root / found.stdout.strip(), versions.pinned(folder / "constraints.txt"))


def fresh(
    name: str, root: Path, folder: Path, overrides: Sequence[str], python: Path, variables: Mapping[str, str]
) -> Run:
    """Clone the committed state and run it from nothing, with caches of its own.

    Args:
        name: for messages.
        root: the project.
        folder: where the clone will be.
        overrides: Hydra overrides, such as `profile=smoke`; none leaves params.yaml as it is committed.
        python: the interpreter, of an environment that has DVC and the packages.
        variables: of the environment, over those of this process.

    Raises:
        StoreError: a command failed; the clone is left as it is.
    """
    clone(root, folder)
    environment = _environment(python) | {"R2R_CACHE": str(folder / ".r2r")} | dict(variables)
    if overrides:
        _call([str(python), "-m", "stages.cli", "params", *overrides], folder, environment)
    (folder / "dvc.lock").unlink(missing_ok=True)
    # over a cache that the user's own settings name, which has what earlier runs left
    (folder / ".dvc/config.local").write_text("[cache]\n    dir = cache\n")
    script = Path(versions.__file__)
    found = json.loads(subprocess.check_output([str(python), str(script)], env=environment, text=True))
    _call([str(python), "-m", "dvc", "repro"], folder, environment)
    return Run(name, folder, folder / ".dvc/cache", found)


def _environment(python: Path) -> dict[str, str]:
    """This process's, without what would lead a clone's git and DVC to another project."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GIT_DIR", "GIT_WORK", "GIT_INDEX", "DVC_"))
    }
    return kept | {"PATH": f"{python.absolute().parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def _call(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=STDERR)
    if done.returncode:
        raise StoreError(f"`{' '.join(command)}` ended with {done.returncode} in {folder}: what it said stands above")
