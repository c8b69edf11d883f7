"""Benchmarks in the distributions in which researchers hold them, recognised by their content.

| on disk | read as | by |
|---|---|---|
| `<name>.bin` | pairs | `bin` |
| zip or folder of images, with `pairs.txt` | pairs | `lfw` |
| `Protocol/Split/{FF,FP}/` | pairs, two benchmarks | `cfp` |
| `meta/*_face_tid_mid.txt`, `loose_crop/` | templates | `ijb` |
| `txts/<group>/`, `data/<group>/`, or `<group>_test.bin` | groups | `rfw` |
| a folder of these | each of them | |

Every broken line stops with the file, the line and the remedy.
"""

from __future__ import annotations

from pathlib import Path

from stages.evaluate.benchmarks import Benchmark
from stages.evaluate.readers.bin import read_bin
from stages.evaluate.readers.cfp import read_cfp
from stages.evaluate.readers.ijb import MEDIA_SUFFIX, read_ijb
from stages.evaluate.readers.lfw import read_lfw
from stages.evaluate.readers.rfw import read_group_bins, read_rfw
from stages.store import StoreError


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
    found = _read_one(path)
    if found:
        return found
    if not path.is_dir():
        raise StoreError(f"{path}: no benchmark is known in this form; an archive of images needs --pairs pairs.txt")
    parts = sorted(part for part in path.iterdir() if part.suffix != ".json" and not part.name.startswith("."))
    if not parts:
        raise StoreError(f"{path}: holds no benchmark; run `r2r fetch`")
    benchmarks: list[Benchmark] = []
    for part in parts:
        found = _read_one(part)
        if not found:
            raise StoreError(f"{part}: no benchmark is known in this form; move it out of the folder of benchmarks")
        benchmarks += found
    return benchmarks


def _read_one(path: Path) -> list[Benchmark]:
    """The benchmarks of one distribution; none where the form is not known."""
    if not path.exists():
        raise StoreError(f"{path}: not found")
    if path.suffix == ".bin":
        return [read_bin(path)]
    if (path / "pairs.txt").is_file():
        return [read_lfw(path / "pairs.txt", path)]
    if (path / "Protocol" / "Split").is_dir():
        return [*read_cfp(path)]
    if any((path / "meta").glob(f"*{MEDIA_SUFFIX}")):
        return [read_ijb(path)]
    if any(path.glob("txts/*/*_pairs.txt")):
        return [read_rfw(path)]
    if any((path / "test").glob("txts/*/*_pairs.txt")):
        return [read_rfw(path / "test")]
    if any(path.glob("*_test.bin")):
        return [read_group_bins(path)]
    return []
