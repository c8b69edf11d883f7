"""Images that a protocol names by their paths in a folder or zip."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import splitext

from stages.evaluate.benchmarks import Images, Landmarks
from stages.images import Archive
from stages.store import StoreError, fingerprint


def named_images(archive: Archive, names: Sequence[str], landmarks: Landmarks | None = None) -> Images:
    """The named images of an archive; all must be there, be it in another format, as a copy of a set may be.

    Raises:
        StoreError: images are missing; the message says how many and which first.
    """
    rows = {name: row for row, name in enumerate(archive.names)}
    if not all(name in rows for name in names):
        stems = {splitext(name)[0]: row for name, row in rows.items()}
        rows |= {name: stems[splitext(name)[0]] for name in names if name not in rows and splitext(name)[0] in stems}
    missing = [name for name in names if name not in rows]
    if missing:
        raise StoreError(
            f"{archive.path}: {len(missing)} of {len(names)} images are missing, first {missing[0]}; unpack the images "
            "again"
        )
    chosen = [rows[name] for name in names]
    digest = fingerprint(archive.digest(chosen), None if landmarks is None else landmarks.points)
    return Images(names, lambda number: archive.encoded(chosen[number]), digest, landmarks=landmarks)
