"""Sets of faces and archives of images in the forms in which they are distributed, read in place.

| what stands at the path | whose | identity | sample | by |
|---|---|---|---|---|
| `subjects_A-B_N_imgs.zip`, or a folder of them | DigiFace-1M's | the subject | the image's number | `digiface` |
| `.rec` with its `.idx`, or their folder | InsightFace's | label | the record's key | `records` |
| LMDB, a file or a folder | HSFace's, MessagePack pairs of image and label | label | place in its list | `database` |
| `.h5`, or a folder of them | this project's shards | a column | a column | `shards` |
| zip, or folder of images | `<identity>/<image>`, most sets | rank of the folder | rank in the folder | `folders` |

A form is known by its content. A folder that holds nothing but one such file or folder stands for it. Nothing is
unpacked or copied, no reader keeps more than a few files open, and none holds an image that it has given out. Images of
two identities, SynFace's by their names, have `mixtures`. Images without identities are an `Archive`. Pixels are taken
as they are stored: no EXIF orientation is applied.
"""

from __future__ import annotations

import os
from pathlib import Path

from stages.images.archive import Archive
from stages.images.colours import looks_swapped
from stages.images.faces import Faces
from stages.images.mixtures import Mixtures
from stages.images.shards import Rows, Shards, read_rows, write_rows
from stages.images.tree import is_hidden, is_image, walk
from stages.store import StoreError
from stages.store.files import broken

RECORD, ZIP, SHARD, DATABASE = b"\x0a\x23\xd7\xce", b"PK", b"\x89HDF\r\n\x1a\n", b"\xde\xc0\xef\xbe"  # how they begin

__all__ = [
    "Archive",
    "Faces",
    "Mixtures",
    "Rows",
    "Shards",
    "is_hidden",
    "is_image",
    "looks_swapped",
    "read_faces",
    "read_rows",
    "walk",
    "write_rows",
]


def read_faces(path: Path) -> Faces:
    """Open the set of labelled faces at `path`, in whichever form.

    Raises:
        StoreError: nothing there, nothing that is known, or a broken set.
    """
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            raise StoreError(
                f"{path}: no set of faces; run the stage that makes it (`r2r fetch`, `r2r align`), or name another"
            )
        if path.is_dir():
            from stages.images.folders import Folders

            return _in_folder(path) or Folders(path)
        return _in_file(path)
    except OSError as error:
        raise broken(path, error, "cannot be read") from error


def _in_file(path: Path) -> Faces:
    """The set in a file, by its first bytes; where they are broken, its suffix says whose error it is."""
    from stages.images.database import Database
    from stages.images.digiface import ZIP_NAME, DigiFace
    from stages.images.folders import Folders
    from stages.images.records import Records

    start = _start(path)
    if start.startswith(RECORD) or path.suffix == ".rec":
        return Records(path)
    if start[16:] == DATABASE or path.suffix in (".lmdb", ".mdb"):
        return Database(path)
    if start.startswith(SHARD) or path.suffix == ".h5":
        return Shards(path.parent, [path])
    if start.startswith(ZIP) or path.suffix == ".zip":
        return DigiFace(path) if ZIP_NAME.fullmatch(path.name) else Folders(path)
    raise StoreError(
        f"{path}: no set of faces in a known form; expected are a zip or folder of <identity>/<image>, DigiFace-1M's "
        "zips, a .rec with its .idx, an LMDB as HSFace's, or shards (.h5)"
    )


def _in_folder(path: Path) -> Faces | None:
    """The set in a folder; none where it is a tree of images."""
    from stages.images.digiface import ZIP_NAME, DigiFace

    with os.scandir(path) as entries:
        visible = [entry for entry in entries if not is_hidden(entry.name)]
    files = sorted(Path(entry.path) for entry in visible if entry.is_file() and not is_image(entry.name))
    zips = [file for file in files if file.suffix == ".zip"]
    if zips and all(ZIP_NAME.fullmatch(file.name) for file in zips):
        return DigiFace(path)
    records = [file for file in files if file.suffix == ".rec"]
    sets = records or [file for file in files if _start(file)[16:] == DATABASE]
    if len(sets) > 1:
        raise StoreError(f"{path}: holds {', '.join(file.name for file in sets)}; name one of them")
    if sets:
        return _in_file(sets[0])
    if any(file.suffix == ".h5" for file in files):
        return Shards(path)
    if zips and len(files) == len(visible):
        return _in_file(zips[0]) if len(zips) == 1 else DigiFace(path)
    if len(visible) == 1 and (files or visible[0].is_dir()):
        return _in_file(files[0]) if files else _in_folder(Path(visible[0].path))
    return None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(20)
