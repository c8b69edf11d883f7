"""How good the generated images are, to an encoder that had no part in making them.

Measured with the encoder that gave the generator its vectors, an image could be right for that encoder alone.
`synthesize.judge` names a second one, trained on other people. It sees source, generated and target images alike: a
face is detected and warped, as `embed` does with `embed.align`, and an image without one is seen as its centre crop.

Every figure of the generated images has beside it the same of the source images (`source_...`), and is a mean over
`synthesize.judge_ids` identities, so that its cost does not grow with `n_ids`.

Notation: m identities of k source and n generated images, d dimensions of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from stages.align import Images, align_images, detector
from stages.embed import Encoder
from stages.fetch.images import ImageArchive
from stages.gap import frechet
from stages.params import Params
from stages.processes import cores
from stages.store import StoreError, decode
from stages.transfer import Transfer

BATCH = 16  # target images
OCTAVES = 4  # of luminance, the finest first
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB, ITU-R BT.601


@dataclass(frozen=True)
class Seen:
    """What the encoder makes of n images."""

    embeddings: np.ndarray  # [n, d] float64, unit norm
    looks: np.ndarray  # [n, 10] float64, of the aligned images; see `look`
    spread: float  # standard deviation of a pixel over the aligned images, 0 to 127.5, mean over the pixels
    without_face: int


class Judge:
    """The second encoder, with the detector before it, and the target images.

    Raises:
        StoreError: there is no such encoder, or no target.
    """

    def __init__(self, params: Params, root: Path = Path(".")) -> None:
        path = root / params.synthesize.judge
        if not path.is_file():
            raise StoreError(f"{path}: no such encoder; set synthesize.judge to an ONNX file")
        self.encoder, self.mtcnn = Encoder(path), detector(params.align)
        self.target = ImageArchive(root / "data/target/target.zip")

    def __call__(
        self, transfer: Transfer, identities: Sequence[int], source: Images, generated: Images
    ) -> dict[str, float | int]:
        """Judge the images of two or more identities; a figure that needs two images is left out where there is one.

        - identity_consistency: cosine of an image to the vector it was asked for with, in this encoder's space: the
          same walk between its embeddings of the same source images. The domain gap is no part of that vector.
          For the source: cosine of an image to the prototype of the identity's other images.
        - impostor_mean, impostor_max: cosine of two identities' prototypes.
        - diversity: 1 - cosine of two images of an identity; pixel_diversity: `Seen.spread`, without the encoder.
        - frechet_to_target: squared Fréchet distance to the target images' embeddings, with equally many of each.
        - look_to_target: the same of their `look`, each statistic in standard deviations of the target's: an identity
          encoder is trained to see people and not how they were photographed.
        """

        def one(identity: int) -> tuple[Seen, Seen, np.ndarray]:
            before, after = (self.see(_read(images, identity)) for images in (source, generated))
            return before, after, cosines(after.embeddings, transfer.asked(identity, before.embeddings))

        # Each on one thread, as in align: how torch shares an operation out would show in its last bits.
        workers = ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,))
        with workers, tqdm(workers.map(one, identities), "judge", len(identities), unit=" identities") as results:
            before, after, consistency = (list(column) for column in zip(*results, strict=True))
            target = self._target(sum(len(seen.embeddings) for seen in after), workers)
        count = min(sum(len(seen.embeddings) for seen in some) for some in (before, after, [target]))
        made = figures(after, np.concatenate(consistency), target, count)
        given = figures(before, np.concatenate([others_cosines(seen.embeddings) for seen in before]), target, count)
        numbers: dict[str, float | int] = {
            "judged_identities": len(identities),
            "judged_images": sum(len(seen.embeddings) for seen in after),
        }
        for name in made:
            numbers |= {name: made[name], f"source_{name}": given[name]}
        return {name: round(value, 4) for name, value in numbers.items() if math.isfinite(value)}

    def see(self, images: Sequence[np.ndarray]) -> Seen:
        """Align and embed images [h, w, 3] uint8 RGB of any sizes."""
        aligned = align_images(images, self.mtcnn)
        embeddings = self.encoder.embed(aligned.images).astype(np.float64)
        spread = float(aligned.images.std(axis=0, dtype=np.float64).mean())
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        return Seen(embeddings, look(aligned.images), spread, int((~aligned.found).sum()))

    def _target(self, count: int, workers: ThreadPoolExecutor) -> Seen:
        """`count` target images, or all where there are fewer."""
        names = _evenly(np.array(self.target.names), min(count, len(self.target)))

        def some(part: np.ndarray) -> Seen:
            return self.see([decode(self.target.encoded(name), f"target.zip: {name}") for name in part.tolist()])

        return joined(list(workers.map(some, np.array_split(names, -(-len(names) // BATCH)))))


def figures(people: Sequence[Seen], own: np.ndarray, target: Seen, count: int) -> dict[str, float | int]:
    """What `Judge` says of one domain.

    Args:
        people: the images of each identity.
        own: [n], cosine of each image to the vector of its identity.
        target: the target images.
        count: images of each domain that the distances compare, evenly from all.
    """
    whole = joined(people)
    scale = np.maximum(target.looks.std(axis=0), 1e-3)  # a statistic may be the same in all of them
    pairs = {
        "frechet_to_target": (whole.embeddings, target.embeddings),
        "look_to_target": (whole.looks / scale, target.looks / scale),
    }
    return {
        "identity_consistency": float(own.mean()),
        **separation(people),
        "diversity": float(np.mean([diversity(seen.embeddings) for seen in people])),
        "pixel_diversity": whole.spread,
        **{name: frechet(_evenly(a, count), _evenly(b, count)) for name, (a, b) in pairs.items()},
        "without_face": whole.without_face,
    }


def look(images: np.ndarray) -> np.ndarray:
    """How images look, whoever is in them: ten statistics of each.

    Mean and standard deviation of red, green and blue, and the log contrast (standard deviation of a level of the
    Laplacian pyramid) of the four finest octaves of luminance, in which noise, blur and shading differ.

    Args:
        images: [n, h, w, 3] uint8 RGB.

    Returns:
        [n, 10] float64.
    """
    rows = []
    for image in images.astype(np.float32) / 255:
        row = [*image.mean(axis=(0, 1)), *image.std(axis=(0, 1))]
        level = image @ LUMINANCE
        for _ in range(OCTAVES):
            coarser = cv2.pyrDown(level)
            detail = level - cv2.pyrUp(coarser, dstsize=level.shape[::-1])
            row.append(np.log(detail.std() + 1 / 255))
            level = coarser
        rows.append(row)
    return np.array(rows, np.float64)


def joined(seen: Sequence[Seen]) -> Seen:
    """Several sets of images as one; its spread is the mean of theirs."""
    return Seen(
        np.concatenate([some.embeddings for some in seen]),
        np.concatenate([some.looks for some in seen]),
        float(np.mean([some.spread for some in seen])),
        sum(some.without_face for some in seen),
    )


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each of the rows a [n, d] to its row of b [n, d], all of unit norm: [n]."""
    return np.einsum("nd,nd->n", a, b, dtype=np.float64)


def others_cosines(embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each embedding [k, d], unit norm, to the normalised mean of the others: [k]; NaN of a single one."""
    others = embeddings.sum(axis=0) - embeddings
    with np.errstate(invalid="ignore"):
        return cosines(embeddings, others / np.linalg.norm(others, axis=1, keepdims=True))


def separation(identities: Sequence[Seen]) -> dict[str, float]:
    """Mean and largest cosine between the prototypes of two identities."""
    prototypes = np.stack([seen.embeddings.mean(axis=0) for seen in identities])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    pairs = (prototypes @ prototypes.T)[np.triu_indices(len(prototypes), 1)]
    return {"impostor_mean": float(pairs.mean()), "impostor_max": float(pairs.max())}


def diversity(embeddings: np.ndarray) -> float:
    """1 - the mean cosine of two of the embeddings [n, d], unit norm; NaN of a single one."""
    n = len(embeddings)
    total = embeddings.sum(axis=0)
    return float(1 - (total @ total - n) / (n * (n - 1))) if n > 1 else math.nan


def _read(images: Images, identity: int) -> list[np.ndarray]:
    return [images.read(identity, sample) for sample in images.samples(identity)]


def _evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, from the first to the last."""
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
