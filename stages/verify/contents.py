"""By what two files of one name differ: in which table or tensor, in how many of its rows, and by how much.

A file is a set of named arrays, as its suffix says; what has no such form is compared line by line or byte by byte.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

SHOWN = 60  # characters of a line


def differences(first: bytes, second: bytes, suffix: str) -> Iterator[str]:
    """A line for each part in which two files differ.

    Args:
        first, second: their bytes.
        suffix: of their name, such as `.h5`.
    """
    if suffix == ".zip":
        yield from _members(first, second)
        return
    one, other = arrays(first, suffix), arrays(second, suffix)
    for name in sorted(one.keys() ^ other.keys()):
        yield f"{name} is in {'the first' if name in one else 'the second'} alone"
    found = [line for name in one if name in other if (line := difference(name, one[name], other[name]))]
    yield from found
    if first != second and not found and one.keys() == other.keys():
        where = difference("byte", _bytes(first), _bytes(second)) or f"{len(first)} | {len(second)} bytes"
        yield f"the same content in other bytes: {where}"


def _members(first: bytes, second: bytes) -> Iterator[str]:
    with zipfile.ZipFile(io.BytesIO(first)) as one, zipfile.ZipFile(io.BytesIO(second)) as other:
        names = [set(one.namelist()), set(other.namelist())]
        for name in sorted(names[0] ^ names[1]):
            yield f"{name} is in {'the first' if name in names[0] else 'the second'} alone"
        changed = [name for name in one.namelist() if name in names[1] and one.read(name) != other.read(name)]
        for name in changed:
            for line in differences(one.read(name), other.read(name), f".{name.rpartition('.')[2]}"):
                yield f"{name}: {line}"
        if not changed and names[0] == names[1]:
            yield "the same files, packed in another order, with other dates or otherwise compressed"


def arrays(content: bytes, suffix: str) -> dict[str, np.ndarray]:
    """What a file holds, by name; a file that is not what its suffix says is lines of text, or bytes."""
    try:
        if reader := READERS.get(suffix):
            return reader(content)
        return {"line": np.array(content.decode().splitlines())}
    except (ValueError, OSError, KeyError, RuntimeError):  # UnicodeDecodeError is a ValueError
        return {"byte": _bytes(content)}


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def _csv(content: bytes) -> dict[str, np.ndarray]:
    header, *rows = csv.reader(io.StringIO(content.decode()))
    return {name: np.array(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}


def _json(content: bytes) -> dict[str, np.ndarray]:
    return dict(_named(json.loads(content)))


def _named(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of nested values, each by the way to it."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _named(inner, f"{name}.{key}" if name else str(key))
    elif hasattr(value, "numpy"):  # torch's; numpy has no bfloat16
        yield name, (value.float() if value.is_floating_point() else value).cpu().numpy()
    else:
        yield name, np.array(value if isinstance(value, int | float) else str(value))


def _hdf5(content: bytes) -> dict[str, np.ndarray]:
    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def _npz(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content)) as file:
        return dict(file)


def _safetensors(content: bytes) -> dict[str, np.ndarray]:
    from safetensors.torch import load

    return dict(_named(load(content)))


def _torch(content: bytes) -> dict[str, np.ndarray]:
    import torch

    return dict(_named(torch.load(io.BytesIO(content), "cpu", weights_only=True)))


def _image(content: bytes) -> dict[str, np.ndarray]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return {"pixels": np.asarray(image)}


READERS: dict[str, Callable[[bytes], dict[str, np.ndarray]]] = {
    ".csv": _csv,
    ".json": _json,
    ".h5": _hdf5,
    ".npy": lambda content: {"array": np.load(io.BytesIO(content))},
    ".npz": _npz,
    ".safetensors": _safetensors,
    **dict.fromkeys((".pt", ".pth"), _torch),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), _image),
}


def difference(name: str, first: np.ndarray, second: np.ndarray) -> str | None:
    """By what two arrays of one name differ, in a line; none where they are equal (NaN is equal to NaN).

    Rows are counted along the first axis, up to the shorter one's end.
    """
    if first.dtype.kind != second.dtype.kind or first.shape[1:] != second.shape[1:] or first.ndim != second.ndim:
        return f"{name}: {_form(first)} | {_form(second)}"
    if first.ndim == 0:
        first, second = first[None], second[None]
        name, rows = f"{name}: ", 0
    else:
        rows = len(first)
    n = min(len(first), len(second))
    both_nan = (first[:n] != first[:n]) & (second[:n] != second[:n])
    unequal = np.asarray((first[:n] != second[:n]) & ~both_nan)
    if not unequal.any():
        return f"{name}: {len(first)} | {len(second)} rows" if len(first) != len(second) else None
    where = tuple(np.argwhere(unequal)[0])
    values = f"{_value(first[where])} | {_value(second[where])}"
    if not rows:
        return f"{name}{values}{_by(first, second)}"
    changed = int(unequal.reshape(n, -1).any(axis=1).sum())
    of = f"{rows}" if len(first) == len(second) else f"{len(first)} | {len(second)}"
    place = ", ".join(map(str, where))
    return f"{name}: {changed} of {of} rows differ, first [{place}]: {values}{_by(first[:n], second[:n])}"


def _form(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _value(value: Any) -> str:
    text = format(value, ".9g") if isinstance(value, float | np.floating) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _by(first: np.ndarray, second: np.ndarray) -> str:
    """The largest difference of numbers, also of those that are written out."""
    try:
        with np.errstate(invalid="ignore"):  # inf - inf
            apart = np.abs(first.astype(np.float64) - second.astype(np.float64))
    except (ValueError, TypeError):
        return ""
    largest = np.max(apart, where=np.isfinite(apart), initial=0)
    return f"; by {largest:.3g} at most" if largest else ""
