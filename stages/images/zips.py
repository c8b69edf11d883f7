"""Members of a zip file, read in place by their position: no unpacking, nothing shared between processes."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.images.tree import HIDDEN, Names, is_hidden, is_image
from stages.store import StoreError
from stages.store.files import broken

MEMBER_LIMIT = 64 << 20  # bytes of one image: an archive that promises more is broken or hostile
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field
MEMBER = np.dtype([("offset", "<i8"), ("packed", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("method", "u1")])


class Zip:
    """The table of contents of a zip: a few dozen bytes a member, where `zipfile` keeps an object of 600.

    Every read opens the file anew, so that an instance may be used in threads, forked and spawned processes.

    Attributes:
        names: of the members that are not hidden, with `/`.
        left_out: how many are, by kind.

    Raises:
        StoreError: not a whole zip, or a member that is encrypted, compressed in a way other than deflate, an image
            larger than `MEMBER_LIMIT`, a link, or named outside of the archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as file:
                found = file.infolist()
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise broken(path, error, "truncated or not a zip; delete it and fetch it again") from error
        members, self.left_out = [], Counter[str]()
        for member in found:
            name = member.filename.replace("\\", "/")  # of some programs on Windows
            if name.startswith("/") or ".." in name.split("/"):
                raise StoreError(f"{path}, member {name}: leads out of the archive; do not trust this file")
            parts = [part for part in name.split("/") if part not in ("", ".")]
            if any(map(is_hidden, parts)):
                self.left_out[HIDDEN] += not name.endswith("/")
            elif not name.endswith("/"):
                member.filename = "/".join(parts)
                _check(path, member)
                members.append(member)
        self.names = Names(member.filename for member in members)
        self.table = np.array(
            [(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type) for m in members], MEMBER
        )

    def read(self, index: int) -> bytes:
        """The content of the member `names[index]`.

        Raises:
            StoreError: the bytes are not those that the table of contents promises.
        """
        offset, packed, size, crc, method = self.table[index].item()
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(offset)
                signature, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
                if signature != b"PK\x03\x04":
                    raise ValueError("no member at its place")
                file.seek(offset + LOCAL_HEADER.size + name + extra)
                content = file.read(packed)
            if method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-15).decompress(content, size + 1)
            if len(content) != size or zlib.crc32(content) != crc:
                raise ValueError("checksum or length differs")
        except (OSError, ValueError, struct.error, zlib.error) as error:
            remedy = f"broken; delete {self.path.name} and fetch it again"
            raise broken(Path(f"{self.path}, member {self.names[index]}"), error, remedy) from error
        return content

    def contents(self, indices: np.ndarray) -> np.ndarray:
        """Length and CRC-32 of members: [k, 2] int64."""
        return np.stack([self.table["size"][indices], self.table["crc"][indices].astype(np.int64)], axis=1)

    @cached_property
    def digest(self) -> str:
        """Identity of the content: 64 hex digits over names, lengths and checksums."""
        digest = hashlib.sha256()
        for name, (*_, size, crc, _) in sorted(zip(self.names, self.table.tolist(), strict=True)):
            digest.update(os.fsencode(f"{name}\0{size}\0{crc}\0"))
        return digest.hexdigest()


def _check(path: Path, member: zipfile.ZipInfo) -> None:
    place = f"{path}, member {member.filename}"
    if member.flag_bits & 1:
        raise StoreError(f"{place}: encrypted; unpack it and zip it again")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise StoreError(f"{place}: neither stored nor deflated; zip it again")
    if member.file_size > MEMBER_LIMIT and is_image(member.filename):
        raise StoreError(f"{place}: {member.file_size} bytes is no image")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise StoreError(f"{place}: a link, which is not followed; zip what it names")
