"""Images of two identities, by SynFace's file names: `{number}_{identity}x{ratio}_({partner})x{1 - ratio}.jpg`.

Source: haibo-qiu/SynFace, `data/syn_images.py` writes them and `lib/datasets/dataset.py` reads them. The folder bears
the identity's number, as `identity` and `partner` do, from 1.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.images.tree import Names
from stages.store import StoreError

MIXED = re.compile(r"\d+_(?P<identity>\d+)x(?P<ratio>[01]\.\d+)_\((?P<partner>\d+)\)x(?P<rest>[01]\.\d+)\.\w+")


class Mixtures(NamedTuple):
    """Whom else n images show."""

    partner: np.ndarray  # [n] int64, identities; -1 where it is none of the set's
    ratio: np.ndarray  # [n] float64, the own identity's share, 0 to 1


def mixtures_of(names: Names, rank: dict[str, int], where: Path) -> Mixtures | None:
    """What the images' names say; none where the first one says nothing.

    Args:
        names: `<folder>/<image>`.
        rank: the identity of each folder.
        where: the set, for messages.

    Raises:
        StoreError: some names say so and others do not, an image that lies in another identity's folder, or shares
            whose sum is not 1.
    """
    if not MIXED.fullmatch(names[0].rpartition("/")[2]):
        return None
    number = {int(last): rank[folder] for folder in rank if (last := folder.rpartition("/")[2]).isdecimal()}
    partner, ratio = np.empty(len(names), np.int64), np.empty(len(names))
    for place, name in enumerate(names):
        folder, _, image = name.rpartition("/")
        found = MIXED.fullmatch(image)
        if not found:
            raise StoreError(
                f"{where}: {name} does not say whom it shows, as {names[0]} does; SynFace's names were expected"
            )
        if number.get(int(found["identity"])) != rank[folder]:
            raise StoreError(f"{where}: {name} lies in the folder of another identity than its name says")
        ratio[place] = float(found["ratio"])
        if abs(ratio[place] + float(found["rest"]) - 1) > 0.002:
            raise StoreError(f"{where}: {name}: its two shares do not sum to 1")
        partner[place] = number.get(int(found["partner"]), -1)
    return Mixtures(partner, ratio)
