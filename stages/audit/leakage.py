"""Whether the people of a set are too near to those of a reference set, and its images copies of theirs.

Two questions, each with a threshold that the reference itself gives:

- An **identity** is near to the reference where the cosine of its prototype to the nearest of the reference's reaches
  what a share `fmr` of the pairs of the reference's own people reach (the false match rate). The more people there are
  to compare with, the more are near by chance; so beside the share of the set's identities stands that of the
  reference's own, each against the others.
- An **image** is a copy where its cosine to the nearest image of the reference is one that at most a share `COPY` of
  the pairs of two images of one reference person reach: nearer than two photographs of a person are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.audit.separability import scores
from stages.audit.vectors import Vectors
from stages.evaluate.metrics import roc
from stages.filter import nearest, nearest_among
from stages.knobs import check

COPY = 1e-3  # of genuine pairs


@dataclass(frozen=True)
class Nearness:
    """What is nearest in the reference, and what that is to be held against.

    Attributes:
        similarity, index: [q] float64 and int64, of each row of the set the nearest of the reference.
        genuine, impostor: [g] and [i] float64, cosines within the reference.
        threshold: from which on a row is too near; NaN where the reference has too few genuine pairs to say.
    """

    similarity: np.ndarray
    index: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray
    threshold: float

    @property
    def found(self) -> np.ndarray:
        """Rows that are too near, the nearest first."""
        order = np.argsort(-self.similarity, kind="stable")
        return order[self.similarity[order] >= self.threshold]


def near_identities(audited: Vectors, reference: Vectors, fmr: float, device: str = "cpu") -> tuple[Nearness, float]:
    """Each identity's nearest of the reference; and the share of the reference's own that are as near to another.

    Raises:
        ParamsError: the reference has too few people for such a rate.
    """
    m = len(reference.prototypes)
    check(fmr * m * (m - 1) / 2 >= 1, f"--fmr is {fmr:g}, but the reference has {m} people: at least {_least(m):.1g}")
    impostor, _ = scores(reference.prototypes, np.arange(m + 1))
    threshold = roc(impostor, np.zeros(len(impostor), bool)).tar_at_far(fmr)[1]
    similarity, index = nearest_among(audited.prototypes, reference.prototypes, device=device, title="identities")
    own, _, _ = nearest(reference.prototypes, device=device)
    halves = reference.halves[np.isfinite(reference.halves)]
    return Nearness(similarity, index, halves, impostor, threshold), float((own >= threshold).mean())


def _least(people: int) -> float:
    return 2 / (people * (people - 1)) if people > 1 else np.inf


def near_images(audited: Vectors, reference: Vectors, device: str = "cpu") -> Nearness:
    """Each image's nearest of the reference."""
    cosines, same = scores(reference.images, reference.starts)
    genuine = np.sort(cosines[same])
    beyond = int(COPY * len(genuine))
    threshold = float(np.nextafter(genuine[-beyond - 1], 2)) if beyond else np.nan
    similarity, index = nearest_among(audited.images, reference.images, device=device, title="images")
    return Nearness(similarity, index, genuine, cosines[~same], threshold)
