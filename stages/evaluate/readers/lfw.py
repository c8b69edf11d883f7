"""LFW's `pairs.txt` over a zip or folder of images `<person>/<image>`.

The heading is `<folds> <n>`, or `<n>` alone for one fold; each fold has n genuine lines `person a b` and n impostor
lines `person a person b`. An image is a number, k for `<person>_000k.jpg`, or a file name; a copy of the set may hold
it in another format.
"""

from __future__ import annotations

from os.path import splitext
from pathlib import Path

import numpy as np

from stages.evaluate.benchmarks import Pairs
from stages.evaluate.readers.folder import named_images
from stages.evaluate.readers.text import broken, read_rows
from stages.images import Archive, is_image
from stages.store import StoreError


def read_lfw(path: Path, archive: Path) -> Pairs:
    """Read the pairs and find their images.

    Args:
        path: `pairs.txt`.
        archive: a zip or folder with `<person>/<image>` at the top or under further folders.

    Raises:
        StoreError: a line that cannot be, or whose image is not in the archive or there twice, with the file and the
            line.
    """
    heading, *rows = read_rows(path, (1, 2, 3, 4))
    if len(heading) > 2 or not all(field.isdigit() for field in heading):
        raise broken(path, 1, f"heading {' '.join(heading)!r}", "it must be: number of folds, number of pairs")
    folds, each = (1, int(heading[0])) if len(heading) == 1 else map(int, heading)
    if len(rows) != 2 * folds * each or not rows:
        remedy = f"{folds} folds of {each} genuine and {each} impostor pairs are {2 * folds * each}"
        raise StoreError(f"{path}: {len(rows)} pairs, where the heading says {remedy}; fetch it again")

    images = Archive(archive)
    found: dict[str, list[str]] = {}
    for name in images.names:
        found.setdefault("/".join(splitext(name)[0].split("/")[-2:]), []).append(name)
    numbers: dict[str, int] = {}

    def number(person: str, image: str, line: int) -> int:
        name = f"{person}_{int(image):04d}" if image.isdigit() else splitext(image)[0] if is_image(image) else image
        names = found.get(f"{person}/{name}", [])
        if not names:
            problem = f"{archive} has no image {person}/{name if image.isdigit() else image}"
            raise broken(path, line, problem, "complete the images, or pass the right archive")
        if len(names) > 1:
            raise broken(path, line, f"{person}/{name} stands for {' and '.join(names)}", "pass one of the two trees")
        return numbers.setdefault(names[0], len(numbers))

    pairs = []
    for row, fields in enumerate(rows):
        line = row + 2
        genuine = row % (2 * each) < each
        if len(fields) != (3 if genuine else 4):
            kind = "a genuine pair (person, image, image)" if genuine else "an impostor pair (person, image, twice)"
            raise broken(path, line, f"{len(fields)} fields, where {kind} is due", "fetch it again")
        if not genuine and fields[0] == fields[2]:
            raise broken(path, line, f"an impostor pair of one person, {fields[0]}", "fetch it again")
        left, right = ((fields[0], fields[1]), (fields[-2] if not genuine else fields[0], fields[-1]))
        pairs.append((number(*left, line), number(*right, line), genuine))
    first, second, same = np.array(pairs).T
    chosen = named_images(images, list(numbers))
    return Pairs(archive.stem, chosen, first, second, same.astype(bool), folds)
