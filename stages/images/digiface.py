"""DigiFace-1M, read in place: zips `subjects_{A}-{B}_{N}_imgs.zip` of members `<subject>/<k>.png`.

The official release has eight such zips with the 109,999 identities that their names promise; what is missing is
counted, what does not belong is an error. A survey of a zip (`<zip>.survey.json`, beside it) names the images that are
broken; they are counted and left out.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stages.images.faces import Faces
from stages.images.tree import is_hidden
from stages.images.zips import Zip
from stages.store import StoreError, write_json

ZIP_NAME = re.compile(r"subjects_(\d+)-(\d+)_(\d+)_imgs\.zip")
MEMBER_NAME = re.compile(r"(\d+)/(\d+)\.png")
SIZE = 112  # px, of DigiFace-1M's images


class DigiFace(Faces):
    """The images of a folder of DigiFace-1M zips, or of one such zip.

    Attributes:
        zips: the zips, in the order of their first subject.
        missing_identities: identities that the zips' names promise and that have no image.
        missing_images: images that the names promise for the identities that are there, and that are not.
        broken_images: images that are there and that their zip's survey found broken; not among the set's.

    Raises:
        StoreError: no zip in the folder, or one that is truncated, misnamed, holds a foreign member or an identity of
            another zip.
    """

    def __init__(self, path: Path) -> None:
        found = [path] if path.is_file() else [zip for zip in path.glob("*.zip") if not is_hidden(zip.name)]
        if not found:
            raise StoreError(f"{path}: no zips of DigiFace-1M; run `r2r fetch`, or put them there")
        self.zips = sorted(found, key=lambda zip: _promise(zip)[0])
        self._zips = [Zip(zip) for zip in self.zips]
        self.missing_identities = self.missing_images = self.broken_images = 0
        owner: dict[int, Path] = {}
        parts = []
        for number, content in enumerate(self._zips):
            members = self._members(content, owner)
            parts.append(np.insert(members, 0, number, axis=1))
        zip_number, member, identity, sample = np.concatenate(parts).T
        self._zip, self._member = zip_number.astype(np.int32), member.astype(np.int32)
        left_out = sum((content.left_out for content in self._zips), Counter[str]())
        super().__init__(path, identity, sample, left_out)

    def _members(self, content: Zip, owner: dict[int, Path]) -> np.ndarray:
        """Number, subject and sample of a zip's images: [n, 3]."""
        path = content.path
        first, last, images = _promise(path)
        members = list(content.names)
        names = np.array([_member(path, name) for name in members], np.int64).reshape(-1, 2)
        broken = set((read_survey(path, content) or {"broken": []})["broken"])
        whole = [number for number, name in enumerate(members) if name not in broken]
        subjects, counts = np.unique(names[whole, 0], return_counts=True)
        for subject in subjects.tolist():
            if not first <= subject <= last:
                raise StoreError(f"{path}: holds subject {subject}; its name promises {first} to {last}")
            if owner.setdefault(subject, path) != path:
                raise StoreError(
                    f"{path}: subject {subject} stands in {owner[subject].name} too; keep one of the two zips"
                )
        self.missing_identities += last - first + 1 - len(subjects)
        self.missing_images += int(np.maximum(images - counts, 0).sum())
        self.broken_images += len(names) - len(whole)
        return np.column_stack([np.array(whole, np.int64), names[whole]])

    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        """A zip a part: its name without suffix, and its rows [k]."""
        owner = self._zip[self._place]
        rows = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner, minlength=len(self.zips)))[:-1])
        for path, mine in zip(self.zips, rows, strict=True):
            if len(mine):
                yield path.stem, mine

    def _encoded(self, place: int) -> bytes:
        return self._zips[self._zip[place]].read(int(self._member[place]))

    def _where(self, place: int) -> str:
        content = self._zips[self._zip[place]]
        return f"{content.path}, member {content.names[int(self._member[place])]}"

    def _digests(self, places: np.ndarray) -> np.ndarray:
        digests = np.empty((len(places), 2), np.int64)
        for number in np.unique(self._zip[places]):
            here = self._zip[places] == number
            digests[here] = self._zips[number].contents(self._member[places[here]])
        return digests


def _promise(path: Path) -> tuple[int, int, int]:
    match = ZIP_NAME.fullmatch(path.name)
    if match is None:
        raise StoreError(f"{path}: not named subjects_A-B_N_imgs.zip as DigiFace-1M's are; rename it or move it away")
    first, last, images = map(int, match.groups())
    if last < first:
        raise StoreError(f"{path}: the name promises subjects {first} to {last}, which is none")
    return first, last, images


def _member(path: Path, name: str) -> tuple[int, int]:
    match = MEMBER_NAME.fullmatch(name)
    if match is None:
        raise StoreError(f"{path}, member {name}: not named <subject>/<k>.png as DigiFace-1M's are")
    return int(match[1]), int(match[2])


PNG_HEADER = struct.Struct(">8s8xIIBB")  # signature, width, height, bits a channel, colour type
PNG_END = b"IEND\xaeB`\x82"


def survey(path: Path, threads: int, bar: tqdm) -> dict[str, Any]:
    """Read every image of a zip once, and write its survey: `digest`, `images`, `gray`, `other_sizes`, `broken`.

    An image is broken whose bytes are not those that the zip promises, or that is not a whole PNG.
    """
    content = Zip(path)

    def look(number: int) -> tuple[bool, bool, bool]:
        bar.update()
        try:
            image = content.read(number)
            signature, width, height, _, colour = PNG_HEADER.unpack_from(image)
        except (StoreError, struct.error) as error:
            if isinstance(error.__cause__, OSError):
                raise  # the system's fault, not the image's
            return True, False, False
        broken = signature != b"\x89PNG\r\n\x1a\n" or not image.endswith(PNG_END)
        return broken, colour in (0, 4), (width, height) != (SIZE, SIZE)

    with ThreadPoolExecutor(threads) as pool:
        looks = np.array(list(pool.map(look, range(len(content.names)))), bool).reshape(-1, 3)
    broken, gray, other = looks.T
    values = {
        "digest": content.digest,
        "images": len(content.names),
        "gray": int((gray & ~broken).sum()),
        "other_sizes": int((other & ~broken).sum()),
        "broken": [content.names[number] for number in np.flatnonzero(broken).tolist()],
    }
    write_json(_survey_path(path), values)
    return values


def read_survey(path: Path, content: Zip | None = None) -> dict[str, Any] | None:
    """The survey of a zip; none where there is none of the zip as it is now."""
    try:
        values = json.loads(_survey_path(path).read_text())
        return values if values["digest"] == (content or Zip(path)).digest else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _survey_path(path: Path) -> Path:
    return path.with_suffix(".survey.json")
