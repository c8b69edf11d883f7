"""RFW: `txts/<group>/<group>_pairs.txt` and `_lmk.txt` over `data/<group>/<id>/<id>_000n.jpg`.

Pairs are tab-separated, `id n n` genuine and `id n id n` impostor, in ten consecutive folds. A line of landmarks is the
image, a column that is not used, and five points x, y in px.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.evaluate.benchmarks import Groups, Landmarks, Pairs
from stages.evaluate.readers.bin import read_bin
from stages.evaluate.readers.folder import folder_images
from stages.evaluate.readers.text import broken, read_rows
from stages.store import StoreError


def read_rfw(root: Path) -> Groups:
    """Read all groups under `root/txts`.

    Raises:
        StoreError: a missing file or image, or a line that cannot be, with the file and the line.
    """
    folders = sorted(folder for folder in (root / "txts").iterdir() if folder.is_dir())
    if not folders:
        raise StoreError(f"{root}/txts: holds no group; unpack it again")
    return Groups(root.name, {folder.name: _read_group(root, folder.name) for folder in folders})


def read_group_bins(root: Path) -> Groups:
    """Read TFace's distribution, `<group>_test.bin` of each group."""
    paths = sorted(root.glob("*_test.bin"))
    return Groups(root.name, {path.stem.removesuffix("_test"): read_bin(path) for path in paths})


def _read_group(root: Path, group: str) -> Pairs:
    path = root / "txts" / group / f"{group}_pairs.txt"
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
        pairs.append((number(fields[0], fields[1], line), number(other, fields[-1], line), same))
    first, second, is_same = np.array(pairs).T
    names = list(numbers)
    landmarks = _read_landmarks(root / "txts" / group / f"{group}_lmk.txt", names, path, named_in)
    return Pairs(group, folder_images(root, names, landmarks), first, second, is_same.astype(bool))


def _read_landmarks(path: Path, names: list[str], pairs: Path, named_in: list[int]) -> Landmarks:
    line_of: dict[str, int] = {}
    points = []
    for line, fields in enumerate(read_rows(path, (12,), "\t"), 1):
        line_of[fields[0].split("/")[-1]] = line
        points.append(parse_points(path, line, fields[2:]))
    lines = []
    for name, line in zip(names, named_in, strict=True):
        image = name.split("/")[-1]
        if image not in line_of:
            raise broken(pairs, line, f"image {image} has no landmarks in {path}", "fetch both files again")
        lines.append(line_of[image])
    return Landmarks(np.array(points, np.float32)[np.array(lines) - 1], path, np.array(lines))


def parse_points(path: Path, line: int, fields: list[str]) -> np.ndarray:
    """Five points from ten fields x, y: [5, 2] float32."""
    try:
        points = np.array(fields, np.float32).reshape(5, 2)
    except ValueError:
        points = np.full((5, 2), np.nan, np.float32)
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() == 0:
        raise broken(path, line, f"landmarks {' '.join(fields)!r}", "five points x y in px were expected")
    return points
