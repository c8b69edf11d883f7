"""Members of a zip file, read in place by their position: no unpacking, nothing shared between processes."""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from stages.store import StoreError

MEMBER_LIMIT = 64 << 20  # bytes of one image: an archive that promises more is broken or hostile
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field
FINGERPRINT = re.compile(rb"[0-9a-f]{64}")


class Zip:
    """The table of contents of a zip: a few dozen bytes a member, where `zipfile` keeps an object of 600.

    Every read opens the file anew, so that an instance may be used in threads, forked and spawned processes.

    Raises:
        StoreError: not a whole zip, or a member that is encrypted, compressed in a way other than deflate, larger
            than `MEMBER_LIMIT`, a link, or named outside of the archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as file:
                members = [member for member in file.infolist() if not member.is_dir()]
                self.comment = file.comment
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise StoreError(f"{path}: truncated or not a zip ({error}); delete it and fetch it again") from error
        for member in members:
            if member.flag_bits & 1:
                raise StoreError(f"{path}, member {member.filename}: encrypted; unpack it and zip it again")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise StoreError(f"{path}, member {member.filename}: neither stored nor deflated; zip it again")
            if member.file_size > MEMBER_LIMIT:
                raise StoreError(f"{path}, member {member.filename}: {member.file_size} bytes is no image")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise StoreError(f"{path}, member {member.filename}: a link, which is not followed; zip what it names")
            if member.filename.startswith("/") or ".." in member.filename.split("/"):
                raise StoreError(f"{path}, member {member.filename}: leads out of the archive; do not trust this file")
        self.names = [member.filename for member in members]
        self.table = np.array(
            [(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type) for m in members], np.int64
        ).reshape(-1, 5)

    def read(self, index: int) -> bytes:
        """The content of the member `names[index]`.

        Raises:
            StoreError: the bytes are not those that the table of contents promises.
        """
        offset, packed, size, crc, method = map(int, self.table[index])
        try:
            with self.path.open("rb", buffering=0) as file:
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
            raise StoreError(
                f"{self.path}, member {self.names[index]}: broken ({error}); delete {self.path.name} and fetch it again"
            ) from error
        return content

    def digest(self) -> str:
        """Identity of the content: the fingerprint in the comment, or a hash over names, sizes and checksums."""
        if FINGERPRINT.fullmatch(self.comment):
            return self.comment.decode()
        digest = hashlib.sha256()
        for index in sorted(range(len(self.names)), key=self.names.__getitem__):
            digest.update(f"{self.names[index]}\0{self.table[index, 2]}\0{self.table[index, 3]}\0".encode())
        return digest.hexdigest()
