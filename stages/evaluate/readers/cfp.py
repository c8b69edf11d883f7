"""CFP's own distribution: `Protocol/Pair_list_{F,P}.txt` number the frontal and profile images, and
`Protocol/Split/{FF,FP}/<fold>/{same,diff}.txt` hold the pairs of each fold as `frontal,other`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from stages.evaluate.benchmarks import Pairs
from stages.evaluate.readers.folder import named_images
from stages.evaluate.readers.text import broken, read_rows
from stages.images import Archive
from stages.store import StoreError


def read_cfp(root: Path) -> list[Pairs]:
    """Read `cfp_ff` and `cfp_fp`, frontal against frontal and frontal against profile.

    Raises:
        StoreError: a missing file or image, or a line that cannot be, with the file and the line.
    """
    frontal, profile = (_image_list(root, f"Pair_list_{letter}.txt") for letter in "FP")
    archive = Archive(root)
    return [_read(archive, "FF", frontal, frontal), _read(archive, "FP", frontal, profile)]


def _image_list(root: Path, name: str) -> list[str]:
    path = root / "Protocol" / name
    names = []
    for line, (number, relative) in enumerate(read_rows(path, (2,)), 1):
        if number != str(line):
            raise broken(path, line, f"image number {number}", "the images must be numbered 1, 2, 3, ...")
        names.append(os.path.normpath(os.path.join("Protocol", relative.replace("\\", "/"))))
    return names


def _read(archive: Archive, protocol: str, left: list[str], right: list[str]) -> Pairs:
    folds = sorted((archive.path / "Protocol" / "Split" / protocol).glob("[0-9]*"))
    if not folds:
        raise StoreError(f"{archive.path}/Protocol/Split/{protocol}: no folds; unpack the protocol again")
    numbers: dict[str, int] = {}
    label: dict[frozenset[int], bool] = {}
    pairs: list[tuple[int, int, bool]] = []
    sizes = set()
    for fold in folds:
        before = len(pairs)
        for file, same in (("same.txt", True), ("diff.txt", False)):
            for line, fields in enumerate(read_rows(fold / file, (2,), ","), 1):
                sides = []
                for text, names in zip(fields, (left, right), strict=True):
                    if not text.strip().isdigit() or not 1 <= int(text) <= len(names):
                        raise broken(
                            fold / file, line, f"image number {text!r}", f"it must be between 1 and {len(names)}"
                        )
                    sides.append(numbers.setdefault(names[int(text) - 1], len(numbers)))
                if label.setdefault(frozenset(sides), same) != same:
                    problem = f"the pair {','.join(fields)} stands in a same.txt and in a diff.txt"
                    raise broken(fold / file, line, problem, "remove the wrong one")
                pairs.append((sides[0], sides[1], same))
        sizes.add(len(pairs) - before)
    if len(sizes) > 1:
        raise StoreError(f"{fold.parent}: folds of {sorted(sizes)} pairs, where equal ones were expected; unpack again")
    first, second, is_same = np.array(pairs).T
    name = f"cfp_{protocol.lower()}"
    return Pairs(name, named_images(archive, list(numbers)), first, second, is_same.astype(bool), len(folds))
