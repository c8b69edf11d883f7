"""RFW: `txts/<group>/<group>_pairs.txt` and `_lmk.txt` over `data/<group>/<id>/<id>_000n.jpg`.

Pairs are tab-separated, `id n n` genuine and `id n id n` impostor, in ten consecutive folds. A line of landmarks is the
image, a column that is not used, and five points x, y in px.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.evaluate.benchmarks import Groups, Landmarks, Pairs
from stages.evaluate.readers.bin import read_bin
from stages.evaluate.readers.folder import named_images
from stages.evaluate.readers.landmarks import line_of_each, parse_points
from stages.evaluate.readers.text import broken, read_rows
from stages.images import Archive
from stages.store import StoreError

GROUPS = ("african", "asian", "caucasian", "indian")


def read_rfw(root: Path) -> Groups:
    """Read all groups under `root/txts`.

    Raises:
        StoreError: a missing file or image, or a line that cannot be, with the file and the line.
    """
    folders = sorted(folder for folder in (root / "txts").iterdir() if folder.is_dir())
    if not folders:
        raise StoreError(f"{root}/txts: holds no group; unpack it again")
    archive = Archive(root)
    return Groups(root.name, {folder.name: _read_group(archive, folder.name) for folder in folders})


def is_group_bin(path: Path) -> bool:
    """Whether this is one of TFace's four files, `African_test.bin` and so on."""
    return path.stem.lower().removesuffix("_test") in GROUPS and path.stem.lower().endswith("_test")


def read_group_bins(name: str, paths: list[Path]) -> Groups:
    """Read TFace's distribution, `<group>_test.bin` of each group."""
    return Groups(name, {path.stem[: -len("_test")]: read_bin(path) for path in paths})


def _read_group(archive: Archive, group: str) -> Pairs:
    folder = archive.path / "txts" / group
    path = folder / f"{group}_pairs.txt"
    numbers: dict[str, int] = {}
    named_in: list[int] = []  # the line that first names each image

    def number(person: str, image: str, line: int) -> int:
        if not image.isdigit():
            raise broken(path, line, f"image number {image!r}", "fetch the file again")
        name = f"data/{group}/{person}/{person}_{int(image):04d}.jpg"
        if name not in numbers:
            named_in.append(line)
        return numbers.setdefault(name, len(numbers))

    pairs = []
    for line, fields in enumerate(read_rows(path, (3, 4), "\t"), 1):
        same = len(fields) == 3
        other = fields[0] if same else fields[2]
        if not same and other == fields[0]:
            raise broken(path, line, f"an impostor pair of one person, {other}", "fetch the file again")
        pairs.append((number(fields[0], fields[1], line), number(other, fields[-1], line), same))
    first, second, is_same = np.array(pairs).T
    names = list(numbers)
    landmarks = _read_landmarks(folder / f"{group}_lmk.txt", names, path, named_in)
    return Pairs(group, named_images(archive, names, landmarks), first, second, is_same.astype(bool))


def _read_landmarks(path: Path, names: list[str], pairs: Path, named_in: list[int]) -> Landmarks:
    rows = read_rows(path, (12,), "\t")
    points = [parse_points(path, line, fields[2:]) for line, fields in enumerate(rows, 1)]
    line_of = line_of_each(path, [fields[0].split("/")[-1] for fields in rows], points)
    lines = []
    for name, line in zip(names, named_in, strict=True):
        image = name.split("/")[-1]
        if image not in line_of:
            raise broken(pairs, line, f"image {image} has no landmarks in {path}", "fetch both files again")
        lines.append(line_of[image])
    return Landmarks(np.array(points, np.float32)[np.array(lines) - 1], path, np.array(lines))
