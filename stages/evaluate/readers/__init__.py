"""Benchmarks in the distributions in which researchers hold them, recognised by their content.

| on disk | read as | by |
|---|---|---|
| `<name>.bin` | pairs | `bin` |
| zip or folder of images, with `pairs.txt` | pairs | `lfw` |
| `Protocol/Split/{FF,FP}/` | pairs, two benchmarks | `cfp` |
| `meta/*_face_tid_mid.txt`, `loose_crop/` | templates | `ijb` |
| `txts/<group>/`, `data/<group>/`, or `<group>_test.bin` | groups | `rfw` |
| a folder of these, such as an unpacked `faces_emore` | each of them | |

Every broken line stops with the file, the line and the remedy. Files beside the benchmarks that are none are left out,
and that is said.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stages.evaluate.benchmarks import Benchmark
from stages.evaluate.readers.bin import read_bin
from stages.evaluate.readers.cfp import read_cfp
from stages.evaluate.readers.ijb import MEDIA_SUFFIX, read_ijb
from stages.evaluate.readers.lfw import read_lfw
from stages.evaluate.readers.rfw import is_group_bin, read_group_bins, read_rfw
from stages.images import is_hidden
from stages.store import StoreError

NAMED = 5  # files that are named when some are left out


def read_benchmarks(path: Path, pairs: Path | None = None) -> list[Benchmark]:
    """Read what stands at `path`: one benchmark, or a folder of them in the order of their names.

    Args:
        path: a benchmark in one of the distributions above, or a folder that holds such.
        pairs: `pairs.txt` in LFW's layout, where `path` is a zip or folder of images.

    Raises:
        StoreError: nothing there, nothing that is known, or a broken distribution.
    """
    if pairs is not None:
        return [read_lfw(pairs, path)]
    if not path.exists():
        raise StoreError(f"{path}: not found")
    if not path.is_dir():
        if path.suffix.lower() != ".bin":
            raise StoreError(
                f"{path}: no benchmark is known in this form; an archive of images needs --pairs pairs.txt"
            )
        return [read_bin(path)]
    return _of_folder(path)


def _of_layout(path: Path) -> list[Benchmark]:
    """The benchmarks of a folder that is laid out as one distribution; none where it is not."""
    if (path / "pairs.txt").is_file():
        return [read_lfw(path / "pairs.txt", path)]
    if (path / "Protocol" / "Split").is_dir():
        return [*read_cfp(path)]
    if any((path / "meta").glob(f"*{MEDIA_SUFFIX}")):
        return [read_ijb(path)]
    for root in (path, path / "test"):
        if any(root.glob("txts/*/*_pairs.txt")):
            return [read_rfw(root)]
    return []


def _of_folder(path: Path) -> list[Benchmark]:
    """The benchmarks that a folder is or holds, in the order of their names, and groups where their first stands."""
    parts = sorted(part for part in path.iterdir() if not is_hidden(part.name))
    bins = [part for part in parts if part.suffix.lower() == ".bin" and part.is_file()]
    groups = [part for part in bins if is_group_bin(part)]
    if bins == parts and all(part.stem.endswith("_test") for part in bins):
        groups = bins  # of other names
    benchmarks = _of_layout(path)
    others = [] if benchmarks else [part for part in parts if part not in bins]
    for part in sorted([*bins, *others]):
        if part in groups:
            if part == groups[0]:
                benchmarks.append(read_group_bins(path.name if groups == parts else "rfw", groups))
        elif part in bins:
            benchmarks.append(read_bin(part))
        elif part.is_dir():
            benchmarks += _of_folder(part)
    known = {f"{part.name.removesuffix('.bin')}.json" for part in parts if part in bins or part.is_dir()}
    left_out = [part.name for part in others if part.is_file() and part.name not in known]  # known: fetch's cards
    if left_out:
        names = ", ".join(left_out[:NAMED]) + (", ..." if len(left_out) > NAMED else "")
        print(f"{path}: {len(left_out)} files that are no benchmark are left out: {names}", file=sys.stderr)
    if not benchmarks:
        raise StoreError(
            f"{path}: no benchmark is known in this form; run `r2r fetch`, or move it out of the benchmarks"
        )
    return benchmarks
