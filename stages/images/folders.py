"""A zip or folder of images, a folder an identity: CASIA-WebFace, DCFace, Digi2Real, SynFace's and most others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.images.archive import Archive
from stages.images.faces import Faces
from stages.images.mixtures import mixtures_of
from stages.store import StoreError


class Folders(Faces):
    """The images of a zip or folder. Identities and samples are ranks in the order of names.

    Raises:
        StoreError: as `Archive`, and for an image that lies in no identity's folder; as `mixtures_of`.
    """

    def __init__(self, path: Path) -> None:
        self._archive = Archive(path)
        names = self._archive.names
        rank = {folder: number for number, folder in enumerate(sorted({_folder(name) for name in names}))}
        identity = np.fromiter((rank[_folder(name)] for name in names), np.int64, len(names))
        if "" in rank:
            name = names[int(np.argmin(identity))]
            raise StoreError(f"{path}: {name} lies in no identity's folder; <identity>/<image> was expected")
        order = np.argsort(identity, kind="stable")
        first = np.searchsorted(identity[order], np.arange(len(rank)))
        sample = np.empty(len(order), np.int64)
        sample[order] = np.arange(len(order)) - first[identity[order]]
        super().__init__(path, identity, sample, self._archive.left_out, mixtures_of(names, rank, path))

    def _encoded(self, place: int) -> bytes:
        return self._archive.encoded(place)

    def _where(self, place: int) -> str:
        return self._archive.where(place)

    def _digests(self, places: np.ndarray) -> np.ndarray:
        return self._archive.contents[places]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
