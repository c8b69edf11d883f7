"""InsightFace's training sets: a `.rec`, images in MXNet's RecordIO, and its `.idx`, where each record begins.

A record is a magic number, a word of 3 bits of kind and 29 of length, and the content, padded to 4 bytes; content that
holds the magic number where a word begins is split there into parts. The content is a header (flag, label float32, two
ids), `flag` further labels float32 of which the first then counts, and a JPEG or PNG file. Where record 0 has labels
and no file, the first is about the number after the last image (a float32, off by a few beyond 2^24), and the records
from there on have no file either: they name the range of each identity (insightface:
`recognition/arcface_torch/dataset.py`; MXNet: `python/mxnet/recordio.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np

from stages.images.digests import length_and_crc, remembered, stamps
from stages.images.faces import Faces
from stages.images.zips import MEMBER_LIMIT
from stages.store import StoreError
from stages.store.files import broken

MAGIC = struct.pack("<I", 0xCED7230A)
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH = (1 << 29) - 1
START = np.dtype(
    [("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("more", "<f4")]
)
PREFIX, HEADER = 8, 24  # bytes before the content, and of its header
IMAGE, RANGE, EMPTY = range(3)  # what a record holds: a file, or without one labels or nothing
BLOCK = 1 << 16  # records whose beginnings are looked at together


class Records(Faces):
    """A `.rec` by its `.idx`. Identity is the label, sample the record's key.

    Raises:
        StoreError: no such files, an index that does not fit, a truncated file, or a label that is no whole number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        keys, offsets = self._read_index()
        labels, kinds = self._starts(keys, offsets)
        images = kinds == IMAGE
        if keys[0] == 0 and kinds[0] == RANGE:
            self._check_complete(keys, kinds, float(labels[0]))
        elif not images.all():
            raise StoreError(f"{path}, record {keys[np.argmin(images)]}: holds no image; fetch it and its .idx again")
        labels, self._key, self._offset = labels[images].astype(np.float64), keys[images], offsets[images]
        bad = ~((labels >= 0) & (labels == np.floor(labels)) & (labels < 2**31))
        if bad.any():
            place = int(np.argmax(bad))
            raise StoreError(
                f"{self._where(place)}: label {labels[place]} is no identity; is it a set of labelled faces?"
            )
        super().__init__(path, labels, self._key)

    def _check_complete(self, keys: np.ndarray, kinds: np.ndarray, after_last: float) -> None:
        """The images must be the records from 1 on, about as many as record 0 promises."""
        images = keys[kinds == IMAGE]
        last = int(images.max(initial=0))
        ranges = np.count_nonzero(kinds == RANGE) > 1  # without them, images may be missing at the end
        tolerance = max(2.0 if ranges else 0.0, float(np.spacing(np.float32(after_last))))
        if not np.array_equal(images, np.arange(1, last + 1)) or not abs(after_last - 1 - last) <= tolerance:
            raise StoreError(
                f"{self.path}: record 0 promises {after_last - 1:.0f} images, and {self.path.stem}.idx lists "
                f"{len(images)} up to record {last}; fetch both again"
            )

    def _read_index(self) -> tuple[np.ndarray, np.ndarray]:
        index = self.path.with_suffix(".idx")
        for path in (self.path, index):
            if not path.is_file():
                raise StoreError(f"{path}: not found; InsightFace's sets are a .rec and its .idx: fetch both")
        try:
            keys, offsets = np.loadtxt(index, np.int64, ndmin=2, comments=None).T
        except ValueError as error:
            raise StoreError(f"{index}: not lines of key and offset ({error}); fetch it again") from None
        order = np.argsort(keys, kind="stable")
        return keys[order], offsets[order]

    def _starts(self, keys: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Label [n] float32 and kind [n] uint8 (`IMAGE`, `RANGE` or `EMPTY`) of each record, checked."""
        size = self.path.stat().st_size
        if not size or not len(keys):
            raise StoreError(f"{self.path}: {size} bytes and {len(keys)} records; fetch it and its .idx again")
        labels, kinds = np.empty(len(keys), np.float32), np.empty(len(keys), np.uint8)
        content = np.memmap(self.path, np.uint8, "r")
        for begin in range(0, len(keys), BLOCK):
            here = offsets[begin : begin + BLOCK]
            inside = (here >= 0) & (here + PREFIX + HEADER <= size)
            places = np.where(inside, here, 0)[:, None] + np.arange(START.itemsize)
            start = content[np.minimum(places, size - 1)].view(START)[:, 0]
            known = inside & (start["magic"] == struct.unpack("<I", MAGIC)[0]) & (start["word"] >> 29 <= FIRST)
            if not known.all():
                row = int(np.argmin(known))
                raise StoreError(
                    f"{self.path}, record {keys[begin + row]}: none begins at byte {here[row]}, where "
                    f"{self.path.stem}.idx says; the .rec is truncated or the .idx another's: fetch both again"
                )
            length = start["word"] & LENGTH
            before = HEADER + 4 * np.minimum(start["flag"], LENGTH)  # the image file
            whole = (here + PREFIX + length <= size) & (length >= before)
            if not whole.all():
                row = int(np.argmin(whole))
                raise StoreError(
                    f"{self.path}, record {keys[begin + row]}: its {length[row]} bytes are not all there; "
                    "the file is truncated: fetch it again"
                )
            labelled = start["flag"] > 0
            labels[begin : begin + BLOCK] = np.where(labelled, start["more"], start["label"])
            holds = (length > before) | (start["word"] >> 29 == FIRST)
            kinds[begin : begin + BLOCK] = np.where(holds, IMAGE, np.where(labelled, RANGE, EMPTY))
        return labels, kinds

    def _encoded(self, place: int) -> bytes:
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(int(self._offset[place]))
                content = self._joined(file, place)
        except OSError as error:
            raise broken(self.path, error, "cannot be read") from error
        flag = int.from_bytes(content[:4], "little")
        return content[HEADER + 4 * flag :]

    def _joined(self, file: FileIO, place: int) -> bytes:
        """The content of the record that begins here, of all its parts."""
        content, kind = bytearray(), FIRST
        while kind in (FIRST, MIDDLE):
            prefix = file.read(PREFIX)
            word = int.from_bytes(prefix[4:], "little")
            length, expected = word & LENGTH, (MIDDLE, LAST) if content else (WHOLE, FIRST)
            kind = word >> 29
            if len(prefix) < PREFIX or prefix[:4] != MAGIC or kind not in expected:
                raise StoreError(f"{self._where(place)}: its parts do not follow each other; fetch the file again")
            if len(content) + length > MEMBER_LIMIT:
                raise StoreError(f"{self._where(place)}: more than {MEMBER_LIMIT} bytes are no image")
            content += MAGIC if content else b""
            content += file.read(length)
            file.seek(-length % 4, 1)
        return bytes(content)

    def _where(self, place: int) -> str:
        return f"{self.path}, record {self._key[place]}"

    @cached_property
    def _contents(self) -> np.ndarray:
        return remembered(self.path, stamps(self.path, self._offset), self._look)

    def _look(self, places: list[int]) -> Iterator[tuple[int, int]]:
        return (length_and_crc(self._encoded(place)) for place in places)

    def _digests(self, places: np.ndarray) -> np.ndarray:
        return self._contents[places]
