"""InsightFace's `.bin`: a pickle of (2p encoded images, p labels); images 2i and 2i + 1 are pair i.

lfw, calfw, cplfw, agedb_30, cfp_fp and cfp_ff are distributed like this, and RFW by TFace. A pickle is a program; this
one is run on an unpickler that knows bytes, bools, numbers, lists and tuples, and stand-ins for the few names that
NumPy's and Python 2's pickles of those mention. Nothing else can be named, so nothing can be called.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluate.benchmarks import Images, Pairs
from stages.store import StoreError


def read_bin(path: Path) -> Pairs:
    """Read a `.bin`; equal images are kept once.

    Raises:
        StoreError: no such file, truncated, not such a pickle, a pickle that names anything else, an odd number of
            images, a wrong number of labels, or an image without content.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: not found") from None
    try:
        value = _plain(_Unpickler(io.BytesIO(content), encoding="bytes").load())
    except _NotAllowed as error:
        raise StoreError(
            f"{path}: this pickle wants to use {error}, which no benchmark needs, so it was not run; get the file from "
            "its publisher again"
        ) from None
    except Exception as error:  # a damaged pickle raises nearly any exception
        raise StoreError(
            f"{path}: truncated or no InsightFace .bin ({type(error).__name__}: {error}); fetch it again"
        ) from None
    if not (isinstance(value, list) and len(value) == 2):
        what = f"{len(value)} parts" if isinstance(value, list) else f"a {type(value).__name__}"
        raise StoreError(f"{path}: holds {what}, where (images, labels) was expected")
    images = [_bytes(path, number, image) for number, image in enumerate(_items(path, value[0], "images"))]
    same = np.array([_bool(path, number, label) for number, label in enumerate(_items(path, value[1], "labels"))], bool)
    if len(images) % 2:
        raise StoreError(f"{path}: {len(images)} images, an odd number, cannot be pairs")
    if not images or len(images) != 2 * len(same):
        raise StoreError(f"{path}: {len(images)} images and {len(same)} labels: two images a label")
    numbers: dict[bytes, int] = {}
    image = np.array([numbers.setdefault(encoded, len(numbers)) for encoded in images])
    distinct = list(numbers)
    names = [f"{path}, image {number}" for number in np.unique(image, return_index=True)[1]]
    digest = hashlib.sha256(content).hexdigest()
    return Pairs(path.stem, Images(names, distinct.__getitem__, digest, aligned=True), image[::2], image[1::2], same)


class _NotAllowed(Exception):
    pass


class _Dtype:
    """Stands in for `numpy.dtype`: remembers its code and the order of its bytes."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        self.code, self.order = _text(code), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    def numbers(self, raw: bytes) -> np.ndarray:
        """The raw bytes as bools, integers or floats."""
        if self.code.lstrip("<>|=")[:1] not in ("b", "?", "i", "u", "f"):
            raise ValueError(f"values of type {self.code}")
        dtype = np.dtype(self.code)
        return np.frombuffer(raw, dtype.newbyteorder(">") if self.order == ">" else dtype)


class _Array:
    """Stands in for an array under reconstruction: remembers its dtype and its raw bytes, or its list of objects."""

    def __init__(self, dtype: _Dtype | None = None, raw: Any = b"") -> None:
        self.dtype, self.raw = dtype, raw

    def __setstate__(self, state: Any) -> None:
        _, _, self.dtype, _, self.raw = state

    def plain(self) -> Any:
        """A list of objects or numbers, or bytes."""
        if isinstance(self.raw, list):
            return _plain(self.raw)
        numbers = (self.dtype or _Dtype("nothing")).numbers(self.raw)
        return numbers.tobytes() if numbers.dtype == np.uint8 else numbers.tolist()


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    """Stands in for a NumPy scalar."""
    (number,) = dtype.numbers(_latin1(raw, "latin1")).tolist()
    return number


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """Lists, bytes, bools and whatever else, with the stand-ins replaced by what they stand for."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.plain() if isinstance(value, _Array) else value


def _latin1(text: str, encoding: str) -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin1") if isinstance(text, str) else text


_STAND_INS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _latin1,
    "builtins.bytes": lambda value=b"": bytes(value) if isinstance(value, bytes | list) else b"",
    "builtins.bytearray": lambda value=b"", encoding="latin1": _latin1(value, encoding),
    "numpy.ndarray": lambda *_: _Array(),
    "numpy.dtype": _Dtype,
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray._reconstruct"] = lambda *_: _Array()
    _STAND_INS[f"{_core}.multiarray.scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric._frombuffer"] = lambda raw, dtype, shape, order: _Array(dtype, raw)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        where = f"{module}.{name}".replace("__builtin__.", "builtins.")
        if where not in _STAND_INS:
            raise _NotAllowed(where)
        return _STAND_INS[where]


def _items(path: Path, value: Any, what: str) -> list[Any]:
    if not isinstance(value, list | bytes):
        raise StoreError(f"{path}: the {what} are a {type(value).__name__}, where a list was expected")
    return list(value)


def _bytes(path: Path, number: int, image: Any) -> bytes:
    if not isinstance(image, bytes | bytearray) or not image:
        raise StoreError(f"{path}: image {number} is not the bytes of an image file")
    return bytes(image)


def _bool(path: Path, number: int, label: Any) -> bool:
    if not isinstance(label, int | float) or label not in (0, 1):
        raise StoreError(f"{path}: label {number} is {label!r}, where True or False was expected")
    return bool(label)
