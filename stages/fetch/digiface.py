"""DigiFace-1M, read in place: zips `subjects_{A}-{B}_{N}_imgs.zip` of members `<subject>/<k>.png`.

The official release has eight such zips with the 109,999 identities that their names promise; what is missing is
counted, what does not belong is an error. A survey of a zip (`<zip>.survey.json`, beside it) names the images that are
broken; they are counted and left out.
"""

from __future__ import annotations

import json
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stages.fetch.zips import Zip
from stages.store import StoreError, replacing

ZIP_NAME = re.compile(r"subjects_(\d+)-(\d+)_(\d+)_imgs\.zip")
MEMBER_NAME = re.compile(r"(\d+)/(\d+)\.png")
SIZE = 112  # px, of DigiFace-1M's images


class Source:
    """Identities and samples of a folder of DigiFace-1M zips.

    Attributes:
        zips: the zips, in the order of their first subject.
        identities: [n] int64, rising.
        missing_identities: identities that the zips' names promise and that have no image.
        missing_images: images that the names promise for the identities that are there, and that are not.
        broken_images: images that are there and that their zip's survey found broken; not among the samples.

    Raises:
        StoreError: no zip in the folder, or one that is truncated, misnamed, holds a foreign member or an identity of
            another zip.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = [path for path in folder.glob("*.zip") if not path.name.startswith(".")]
        if not found:
            raise StoreError(f"{folder}: no zips of DigiFace-1M; run `r2r fetch`, or put them there")
        self.zips = sorted(found, key=lambda path: _promise(path)[0])
        self._zips: list[Zip] = []
        self._order: list[np.ndarray] = []  # of each zip: [m] member numbers, by subject and sample
        self._samples: list[np.ndarray] = []  # of each zip: [m] sample numbers in that order
        self._place: dict[int, tuple[int, int, int]] = {}  # identity -> zip, first and last + 1 row of its samples
        self.missing_identities = 0
        self.missing_images = 0
        self.broken_images = 0
        for path in self.zips:
            self._add(path)
        self.identities: np.ndarray = np.array(sorted(self._place), np.int64)

    def _add(self, path: Path) -> None:
        first, last, images = _promise(path)
        content = Zip(path)
        members = np.array([_member(path, name) for name in content.names], np.int64).reshape(-1, 2)
        order = np.lexsort((members[:, 1], members[:, 0]))
        order = order[~np.isin(order, self._broken(path, content))]
        members = members[order]
        doubled = np.flatnonzero((np.diff(members, axis=0) == 0).all(1))
        if len(doubled):
            raise StoreError(f"{path}: member {members[doubled[0], 0]}/{members[doubled[0], 1]}.png stands there twice")
        subjects, begins = np.unique(members[:, 0], return_index=True)
        ends = np.append(begins[1:], len(members))
        for subject, begin, end in zip(subjects.tolist(), begins.tolist(), ends.tolist(), strict=True):
            if not first <= subject <= last:
                raise StoreError(f"{path}: holds subject {subject}; its name promises {first} to {last}")
            if subject in self._place:
                other = self.zips[self._place[subject][0]]
                raise StoreError(f"{path}: subject {subject} stands in {other.name} too; keep one of the two zips")
            self._place[subject] = (len(self._zips), begin, end)
        self.missing_identities += last - first + 1 - len(subjects)
        self.missing_images += int(np.maximum(images - (ends - begins), 0).sum())
        self._zips.append(content)
        self._order.append(order)
        self._samples.append(members[:, 1])

    def _broken(self, path: Path, content: Zip) -> list[int]:
        names = set((read_survey(path, content) or {"broken": []})["broken"])
        self.broken_images += len(names)
        return [number for number, name in enumerate(content.names) if name in names] if names else []

    def _rows(self, identity: int) -> tuple[int, int, int]:
        if identity not in self._place:
            raise StoreError(f"{self.folder}: no identity {identity} among the {len(self._place)} there")
        return self._place[identity]

    def samples(self, identity: int) -> list[int]:
        """The sample numbers of an identity, rising."""
        number, begin, end = self._rows(identity)
        return self._samples[number][begin:end].tolist()

    def encoded(self, identity: int, sample: int) -> bytes:
        """The PNG file of one image.

        Raises:
            StoreError: no such image, or its bytes are broken.
        """
        number, begin, end = self._rows(identity)
        row = begin + int(np.searchsorted(self._samples[number][begin:end], sample))
        if row == end or self._samples[number][row] != sample:
            raise StoreError(f"{self.zips[number]}: no member {identity}/{sample}.png")
        return self._zips[number].read(int(self._order[number][row]))

    def of_zip(self, path: Path) -> list[tuple[int, int]]:
        """(identity, sample) of every image of a zip, rising."""
        number = self.zips.index(path)
        rows = [(identity, place) for identity, place in self._place.items() if place[0] == number]
        return [(identity, sample) for identity, _ in sorted(rows) for sample in self.samples(identity)]

    def digest(self, path: Path) -> str:
        """Identity of a zip's content (`Zip.digest`)."""
        return self._zips[self.zips.index(path)].digest()


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


def survey(path: Path, threads: int, bar: tqdm) -> None:
    """Read every image of a zip once, and write its survey: `digest`, `images`, `gray`, `other_sizes`, `broken`.

    An image is broken whose bytes are not those that the zip promises, or that is not a whole PNG.
    """
    content = Zip(path)

    def look(number: int) -> tuple[bool, bool, bool]:
        bar.update()
        try:
            image = content.read(number)
            signature, width, height, _, colour = PNG_HEADER.unpack_from(image)
        except (StoreError, struct.error):
            return True, False, False
        broken = signature != b"\x89PNG\r\n\x1a\n" or not image.endswith(PNG_END)
        return broken, colour in (0, 4), (width, height) != (SIZE, SIZE)

    with ThreadPoolExecutor(threads) as pool:
        looks = np.array(list(pool.map(look, range(len(content.names)))), bool).reshape(-1, 3)
    broken, gray, other = looks.T
    values = {
        "digest": content.digest(),
        "images": len(content.names),
        "gray": int((gray & ~broken).sum()),
        "other_sizes": int((other & ~broken).sum()),
        "broken": [content.names[number] for number in np.flatnonzero(broken)],
    }
    with replacing(_survey_path(path)) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n")


def read_survey(path: Path, content: Zip | None = None) -> dict[str, Any] | None:
    """The survey of a zip; none where there is none of the zip as it is now."""
    try:
        values = json.loads(_survey_path(path).read_text())
    except FileNotFoundError:
        return None
    return values if values["digest"] == (content or Zip(path)).digest() else None


def _survey_path(path: Path) -> Path:
    return path.with_suffix(".survey.json")
