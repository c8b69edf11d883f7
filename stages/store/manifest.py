"""What a folder of `data/` was given, written beside it: so that who reads it later sees that a part of it is gone.

DVC restores an output's files, and no links to folders; a person may delete one of fifty zips. The manifest, a hidden
file of the folder, names all that was put there, what the links in it lead to, and the content of linked folders, which
DVC does not hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stages.store.cache import cache_folder
from stages.store.files import StoreError, write_json

NAME = ".manifest.json"
CACHE = "$R2R_CACHE/"  # how a place in the cache is written: on another machine it is another


def write_manifest(folder: Path, files: Iterable[str], links: Mapping[str, str], content: str = "") -> None:
    """Say what was put into a folder.

    Args:
        folder: of an output, `data/NAME`.
        files: paths in it.
        links: of these, links to what is kept elsewhere -> where: a path, as a knob names it, or `CACHE` and a path.
        content: a digest of what is linked and not hashed by DVC.
    """
    values = {"files": sorted(files), "links": dict(sorted(links.items())), "content": content}
    if not (folder / NAME).is_file() or read_manifest(folder) != values:
        write_json(folder / NAME, values)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` said: `files`, `links` and `content`; empty where there is none."""
    try:
        return json.loads((folder / NAME).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {"files": [], "links": {}, "content": ""}


def links_of(folder: Path) -> dict[str, Path]:
    """The links in a folder -> what they lead to."""
    root = folder.parent.parent
    return {
        name: cache_folder() / where.removeprefix(CACHE) if where.startswith(CACHE) else root / Path(where).expanduser()
        for name, where in read_manifest(folder)["links"].items()
    }


def check_manifest(folder: Path, stage: str = "fetch") -> None:
    """Bring back the links to folders, which DVC does not restore, and stop where another part of a folder is gone.

    Raises:
        StoreError: with the first that is missing, and how many are.
    """
    for name, source in links_of(folder).items():
        path = folder / name
        if source.is_dir() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(source.resolve())
    files = read_manifest(folder)["files"]
    if missing := [name for name in files if not (folder / name).exists()]:
        raise StoreError(
            f"{folder / missing[0]}: is gone, {len(missing)} of the {len(files)} that {stage} put there are; bring "
            f"them back by `r2r {stage}`"
        )
