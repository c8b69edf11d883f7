"""What a folder was given, written beside it: so that who reads it later sees that a part of it is gone.

DVC restores an output's files, and no links to folders; a person may delete one of fifty zips. The manifest, a hidden
file of the folder, names all that was put there, and says the content of linked folders, which DVC does not hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.store.files import StoreError, write_json

NAME = ".manifest.json"


def write_manifest(folder: Path, files: Iterable[str], content: str = "", path: str = "") -> None:
    """Say what was put into a folder.

    Args:
        folder: of an output.
        files: their paths in it.
        content: a digest of what is linked and not hashed by DVC.
        path: of the set that they are links to, where a knob names one.
    """
    values = {"path": path, "content": content, "files": sorted(files)}
    if not (folder / NAME).is_file() or read_manifest(folder) != values:
        write_json(folder / NAME, values)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` said: `path`, `content` and `files`; empty where there is none."""
    try:
        return json.loads((folder / NAME).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {"path": "", "content": "", "files": []}


def check_manifest(folder: Path, stage: str = "fetch") -> None:
    """Stop where a part of a folder is gone.

    Raises:
        StoreError: with the first that is missing, and how many are.
    """
    files = read_manifest(folder)["files"]
    if missing := [name for name in files if not (folder / name).exists()]:
        raise StoreError(
            f"{folder / missing[0]}: is gone, {len(missing)} of the {len(files)} that {stage} put there are; bring "
            f"them back by `r2r {stage}`"
        )
