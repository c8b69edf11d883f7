"""LFW's `pairs.txt` over a zip or folder of images `<person>/<image>`.

The heading is `<folds> <n>`, or `<n>` alone for one fold; each fold has n genuine lines `person a b` and n impostor
lines `person a person b`. An image is a number, k for `<person>_000k.jpg`, or a file name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.evaluate.benchmarks import Images, Pairs
from stages.evaluate.readers.folder import folder_images
from stages.evaluate.readers.text import broken, read_rows
from stages.fetch.images import ImageArchive
from stages.store import StoreError, fingerprint


def read_lfw(path: Path, archive: Path) -> Pairs:
    """Read the pairs and find their images.

    Args:
        path: `pairs.txt`.
        archive: a zip or folder with `<person>/<image>` at the top or under further folders.

    Raises:
        StoreError: a line that cannot be, or an image that is not in the archive, with the file and the line.
    """
    heading, *rows = read_rows(path, (1, 2, 3, 4))
    if len(heading) > 2 or not all(field.isdigit() for field in heading):
        raise broken(path, 1, f"heading {' '.join(heading)!r}", "it must be: number of folds, number of pairs")
    folds, each = (1, int(heading[0])) if len(heading) == 1 else map(int, heading)
    if len(rows) != 2 * folds * each or not rows:
        remedy = f"{folds} folds of {each} genuine and {each} impostor pairs are {2 * folds * each}"
        raise StoreError(f"{path}: {len(rows)} pairs, where the heading says {remedy}; fetch it again")

    images = ImageArchive(archive)
    full_names = {"/".join(name.split("/")[-2:]): name for name in images.names}
    numbers: dict[str, int] = {}

    def number(person: str, image: str, line: int) -> int:
        name = f"{person}/{person}_{int(image):04d}.jpg" if image.isdigit() else f"{person}/{image}"
        if name not in full_names:
            raise broken(path, line, f"{archive} has no image {name}", "complete the images, or pass the right archive")
        return numbers.setdefault(full_names[name], len(numbers))

    pairs = []
    for row, fields in enumerate(rows):
        line = row + 2
        genuine = row % (2 * each) < each
        if len(fields) != (3 if genuine else 4):
            kind = "a genuine pair (person, image, image)" if genuine else "an impostor pair (person, image, twice)"
            raise broken(path, line, f"{len(fields)} fields, where {kind} is due", "fetch it again")
        left, right = ((fields[0], fields[1]), (fields[-2] if not genuine else fields[0], fields[-1]))
        pairs.append((number(*left, line), number(*right, line), genuine))
    first, second, same = np.array(pairs).T
    names = list(numbers)
    if archive.is_dir():
        chosen = folder_images(archive, names)
    else:
        digest = fingerprint(images.digest(), names)
        chosen = Images(names, lambda index: images.encoded(names[index]), digest)
    return Pairs(archive.stem, chosen, first, second, same.astype(bool), folds)
