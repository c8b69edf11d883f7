"""Sets of faces in the official layouts, written byte by byte."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import lmdb
import msgpack
import numpy as np

from stages.store import encode

MAGIC = 0xCED7230A
PEOPLE = {40: 3, 7: 1, 12: 2}  # label: images; labels with gaps, not in order


def picture(label: int, sample: int, size: int = 112) -> np.ndarray:
    return np.random.default_rng([label, sample]).integers(0, 256, (size, size, 3), dtype=np.uint8)


def people() -> list[tuple[int, bytes]]:
    return [(label, encode(picture(label, sample))) for label, count in PEOPLE.items() for sample in range(count)]


def record(content: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", MAGIC, kind << 29 | len(content)) + content + bytes(-len(content) % 4)


def packed(label: float, image: bytes, more: tuple[float, ...] = ()) -> bytes:
    """MXNet's image header; with `more` labels the header's own is 0 and the flag their number."""
    return struct.pack(f"<IfQQ{len(more)}f", len(more), 0 if more else label, 0, 0, *more) + image


def split(content: bytes) -> bytes:
    """One record in parts: the content is cut where it holds the magic number at a multiple of 4 bytes."""
    magic, parts, begin = struct.pack("<I", MAGIC), [], 0
    for place in range(0, len(content) - 3, 4):
        if content[place : place + 4] == magic:
            parts.append(content[begin:place])
            begin = place + 4
    parts.append(content[begin:])
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(record(part, kind) for part, kind in zip(parts, kinds, strict=True))


def write_rec(folder: Path, records: dict[int, bytes]) -> Path:
    """`train.rec` and `train.idx` of whole records by key."""
    folder.mkdir(parents=True, exist_ok=True)
    offset, rows = 0, []
    with (folder / "train.rec").open("wb") as file:
        for key, content in records.items():
            rows.append(f"{key}\t{offset}\n")
            offset += file.write(content)
    (folder / "train.idx").write_text("".join(rows))
    return folder / "train.rec"


def write_faces(folder: Path) -> Path:
    """As insightface packs: record 0 names the ranges, then images, then a record for each identity."""
    images = people()
    records = {0: record(packed(0, b"", (len(images) + 1.0, len(images) + 1.0 + len(PEOPLE))))}
    for key, (label, image) in enumerate(images, 1):
        records[key] = record(packed(label, image) if key % 2 else packed(0, image, (label, 1.0)))
    begin = 1
    for key, count in enumerate(PEOPLE.values(), len(images) + 1):
        records[key] = record(packed(0, b"", (float(begin), float(begin + count))))
        begin += count
    return write_rec(folder, records)


def write_lmdb(path: Path, pairs: list[tuple[object, object]]) -> Path:
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for number, pair in enumerate(pairs):
            transaction.put(str(number).encode(), msgpack.packb(pair))
        transaction.put(b"__keys__", msgpack.packb([str(number).encode() for number in range(len(pairs))]))
        transaction.put(b"__len__", msgpack.packb(len(pairs)))
    return path


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


WRITERS = {"folder": write_tree, "zip": lambda path, files: write_zip(path.with_suffix(".zip"), files)}
