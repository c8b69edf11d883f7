"""InsightFace's training sets: a `.rec`, images in MXNet's RecordIO, and its `.idx`, where each record begins.

A record is a magic number, a word of 3 bits of kind and 29 of length, and the content, padded to 4 bytes; content that
holds the magic number where a word begins is split there into parts. The content is a header (flag, label float32, two
ids), `flag` further labels float32 of which the first then counts, and a JPEG or PNG file. Where record 0 has a flag,
its first label is the number after the last image, and the records from there on are not images but name the range of
each identity (insightface: `recognition/arcface_torch/dataset.py`; MXNet: `python/mxnet/recordio.py`).
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np

from stages.fetch.zips import MEMBER_LIMIT
from stages.store import StoreError

MAGIC = struct.pack("<I", 0xCED7230A)
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH = (1 << 29) - 1
START = np.dtype(
    [("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("more", "<f4")]
)
PREFIX, HEADER = 8, 24  # bytes before the content, and of its header
BLOCK = 1 << 16  # records whose beginnings are looked at together


class Records:
    """A `.rec` by its `.idx`; see `TrainingSet`. It holds three numbers an image.

    The fingerprint is over keys, labels and lengths: reading 24 GB to hash them would take minutes.

    Raises:
        StoreError: no such files, an index that does not fit, a truncated file, or a label that is no whole number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        keys, offsets = self._read_index()
        starts = self._starts(keys, offsets)
        images = np.ones(len(keys), bool)
        if keys[0] == 0 and starts["flag"][0]:
            after_last = int(starts["more"][0])
            images = (keys >= 1) & (keys < after_last)
            if np.count_nonzero(images) != after_last - 1:
                raise StoreError(
                    f"{path}: record 0 promises {after_last - 1} images, and {path.stem}.idx lists "
                    f"{np.count_nonzero(images)} of them; fetch both again"
                )
        labels = np.where(starts["flag"] > 0, starts["more"], starts["label"])[images].astype(np.float64)
        self.sample, self._offset = keys[images], offsets[images]
        if not len(labels):
            raise StoreError(f"{path}: holds no image")
        broken = ~((labels >= 0) & (labels == np.floor(labels)) & (labels < 2**31))
        if broken.any():
            row = int(np.argmax(broken))
            raise StoreError(f"{self.where(row)}: label {labels[row]} is no identity; is it a set of labelled faces?")
        self.identity = labels.astype(np.int64)
        digest = hashlib.sha256(starts["word"][images].tobytes())
        for column in (self.sample, self.identity):
            digest.update(column.tobytes())
        self.fingerprints = [digest.hexdigest()]

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

    def _starts(self, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """The beginning [n] of each record, checked."""
        size = self.path.stat().st_size
        if not size or not len(keys):
            raise StoreError(f"{self.path}: {size} bytes and {len(keys)} records; fetch it and its .idx again")
        parts = []
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
            whole = (here + PREFIX + length <= size) & (length >= HEADER + 4 * np.minimum(start["flag"], LENGTH))
            if not whole.all():
                row = int(np.argmin(whole))
                raise StoreError(
                    f"{self.path}, record {keys[begin + row]}: its {length[row]} bytes are not all there; "
                    "the file is truncated: fetch it again"
                )
            parts.append(start)
        return np.concatenate(parts)

    def encoded(self, row: int) -> bytes:
        """The image file of a row.

        Raises:
            StoreError: a part is missing, or the record is too large for an image.
        """
        content = bytearray()
        with self.path.open("rb", buffering=0) as file:
            file.seek(int(self._offset[row]))
            kind = FIRST
            while kind in (FIRST, MIDDLE):
                prefix = file.read(PREFIX)
                word = int.from_bytes(prefix[4:], "little")
                length, expected = word & LENGTH, (MIDDLE, LAST) if content else (WHOLE, FIRST)
                kind = word >> 29
                if len(prefix) < PREFIX or prefix[:4] != MAGIC or kind not in expected:
                    raise StoreError(f"{self.where(row)}: its parts do not follow each other; fetch the file again")
                if len(content) + length > MEMBER_LIMIT:
                    raise StoreError(f"{self.where(row)}: more than {MEMBER_LIMIT} bytes are no image")
                content += MAGIC if content else b""
                content += file.read(length)
                file.seek(-length % 4, 1)
        flag = int.from_bytes(content[:4], "little")
        return bytes(content[HEADER + 4 * flag :])

    def where(self, row: int) -> str:
        """File and key."""
        return f"{self.path}, record {self.sample[row]}"
