"""How good the generated images are, to an encoder that had no part in making them.

    r2r judge

Measured with the encoder that gave the generator its vectors, an image could be right for that encoder alone.
`judge.encoder` names a second one, trained on other people. It sees source, generated and target images alike: a face
is detected and warped, as `embed` does with `embed.align`, and an image without one is seen as its centre crop.

Every figure of the generated images has beside it the same of the source images (`source_...`), and is a mean over
`judge.ids` identities, so that its cost does not grow with `n_ids`.

Notation: m identities of k source and n generated images, d dimensions of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stages.align.faces import CODE as ALIGN_CODE
from stages.align.faces import align_images, detection, detection_seconds, detector
from stages.embed.encoder import Encoder, runtime
from stages.embed.stage import encoder_file, encoder_seconds
from stages.filter import chosen_identities
from stages.images import Archive, Faces, Rows, Shards, read_faces, read_rows, write_rows
from stages.knobs import knob, knobs
from stages.measures import frechet
from stages.run import Job, Part, by_range, cores, threads
from stages.run import run as run_job
from stages.run.machine import Machine, Work
from stages.store import fingerprint, nothing, write_json
from stages.transfer import create

if TYPE_CHECKING:
    from stages.params import Params

BATCH = 16  # target images
STEP = 64  # numbers of identities that a shard spans
OCTAVES = 4  # of luminance, the finest first
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB, ITU-R BT.601


@knobs("judge")
class Judge:
    """Who judges the generated images, and how many."""

    encoder: str = knob("stages/embed/second.onnx", "as embed.encoder is, and which made none of the identity vectors")
    ids: int = knob(50, "identities that are judged, evenly from the filter's order; the cost grows with them", ge=2)


@dataclass(frozen=True)
class Seen:
    """What the encoder makes of n images."""

    embeddings: np.ndarray  # [n, d] float64, unit norm
    looks: np.ndarray  # [n, 10] float64, of the aligned images; see `look`
    spread: float  # standard deviation of a pixel over the aligned images, 0 to 127.5, mean over the pixels
    without_face: int


def run(params: Params, root: Path = Path(".")) -> None:
    """Judge the images of `data/synthesize`; write `data/judge/` (what the encoder saw) and `metrics/judge.json`.

    A figure that needs two images is left out where there is one.

    - identity_consistency: cosine of an image to the vector it was asked for with, in this encoder's space: the same
      walk between its embeddings of the same source images. The domain gap is no part of that vector. For the source:
      cosine of an image to the prototype of the identity's other images.
    - impostor_mean, impostor_max: cosine of two identities' prototypes.
    - diversity: 1 - cosine of two images of an identity; pixel_diversity: `Seen.spread`, without the encoder.
    - frechet_to_target: squared Fréchet distance to the target images' embeddings, with equally many of each.
    - colour_change, colour_change_max, source_colour_difference: see `colours`.
    - look_to_target: the same of their `look`, each statistic in standard deviations of the target's: an identity
      encoder is trained to see people and not how they were photographed.

    Raises:
        StoreError: there is no such encoder, no target, or no generated images.
    """
    folder = root / "data/judge"
    if not params.transfer.makes_images:
        nothing(folder, f"method {params.method} makes no images")
        write_json(root / "metrics/judge.json", {"judged_images": 0})
        return
    chosen = chosen_identities(root / "data/filter.h5", params.judge.ids)
    source, generated = read_faces(root / "data/source"), Shards(root / "data/synthesize")
    target = Archive(root / "data/target/target.zip")
    images = sum(len(generated.rows(identity)) for identity in chosen)
    rows = _evenly(np.arange(len(target)), min(images, len(target)))
    batches = np.array_split(rows, -(-len(rows) // BATCH))
    encoder = encoder_file(root, params.judge.encoder, "judge.encoder")
    seen_by = [runtime(), detection(params.align)]
    made_from = fingerprint(encoder, seen_by, code=("judge", "embed/encoder", *ALIGN_CODE))

    def shards(name: str, faces: Faces) -> list[Part]:
        keys = {identity: fingerprint(made_from, faces.digest(faces.rows(identity))) for identity in chosen}
        return [
            Part(part.path, part.fingerprint, [(name, identity) for identity in part.items], part.keys)
            for part in by_range(folder / name, chosen, keys, STEP)
        ]

    key = fingerprint(made_from, target.digest(rows))
    of_target = Part(folder / "target.h5", key, [("target", batch) for batch in batches])
    sets: dict[str, Any] = {"source": source, "synthesize": generated, "target": target}
    job = Job(
        stage="judge",
        folder=folder,
        parts=[*shards("source", source), *shards("synthesize", generated), of_target],
        start=lambda: _judge(params, root, sets),
        write=lambda path, part, results: write_rows(path, results),
        size=lambda item: 1 if item[0] == "target" else len(sets[item[0]].rows(item[1])),
        read=lambda path, item: read_rows(path, item[1]),
    )
    run_job(job, threads(cores()))
    write_json(root / "metrics/judge.json", _metrics(params, root, chosen))


def cost(params: Params, root: Path, machine: Machine) -> Work | None:
    """About how long it takes: detection and embedding of the judged images, twice."""
    if not params.transfer.makes_images:
        return None
    images = params.judge.ids * 2 * params.images_per_id
    each = encoder_seconds(root / params.judge.encoder, machine) + detection_seconds(params.align, 112)
    return Work(images * each / machine.cores, f"{images:,} images")


def _judge(params: Params, root: Path, sets: dict[str, Any]) -> Callable[[tuple[str, Any]], Rows]:
    """The function that sees an identity's images, or a batch of the target's."""
    encoder, mtcnn = Encoder(root / params.judge.encoder), detector(params.align)

    def see(item: tuple[str, Any]) -> Rows:
        name, which = item
        images = sets[name]
        rows = which.tolist() if name == "target" else list(images.rows(which))
        aligned = align_images([images.image(row) for row in rows], mtcnn)
        embeddings = encoder.embed(aligned.images).astype(np.float64)
        n = len(rows)
        columns = {
            "identity": np.full(n, -1 if name == "target" else which, np.int64),
            "embedding": embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
            "look": look(aligned.images),
            "spread": np.full(n, aligned.images.std(axis=0, dtype=np.float64).mean()),
            "found": aligned.found,
        }
        return Rows(columns, None)

    return see


def _metrics(params: Params, root: Path, chosen: list[int]) -> dict[str, float | int]:
    folder, method = root / "data/judge", create(params, root)
    before, after = ([_seen(folder / name, identity) for identity in chosen] for name in ("source", "synthesize"))
    target = _seen(folder, -1)
    asked = [method.asked(identity, seen.embeddings) for identity, seen in zip(chosen, before, strict=True)]
    consistency = [cosines(seen.embeddings, vectors) for seen, vectors in zip(after, asked, strict=True)]
    count = min(sum(len(seen.embeddings) for seen in some) for some in (before, after, [target]))
    made = figures(after, np.concatenate(consistency), target, count)
    given = figures(before, np.concatenate([others_cosines(seen.embeddings) for seen in before]), target, count)
    numbers: dict[str, float | int] = {
        "judged_identities": len(chosen),
        "judged_images": sum(len(seen.embeddings) for seen in after),
    }
    for name in made:
        numbers |= {name: made[name], f"source_{name}": given[name]}
    numbers |= colours(before, after)
    return {name: round(value, 4) for name, value in numbers.items() if math.isfinite(value)}


def _seen(folder: Path, identity: int) -> Seen:
    """What the encoder made of an identity's images, or (-1) of the target's."""
    path = folder / ("target.h5" if identity < 0 else f"{identity // STEP:05}.h5")
    columns = read_rows(path, identity).columns
    found = columns["found"]
    return Seen(columns["embedding"], columns["look"], float(columns["spread"][0]), int((~found).sum()))


def figures(people: Sequence[Seen], own: np.ndarray, target: Seen, count: int) -> dict[str, float | int]:
    """What is said of one domain.

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


def colours(before: Sequence[Seen], after: Sequence[Seen]) -> dict[str, float]:
    """How far the mean colour of an identity's images moves from source to generated, beyond what all move.

    Args:
        before, after: of m identities, the source and the generated images.

    Returns:
        colour_change, colour_change_max: mean and largest of the m distances, in RGB of 0 to 255;
        source_colour_difference: mean distance between two identities' source images, with which they compare.
    """
    source, made = (255 * np.stack([seen.looks[:, :3].mean(axis=0) for seen in some]) for some in (before, after))
    moved = made - source
    changes = np.linalg.norm(moved - np.median(moved, axis=0), axis=1)
    pairs = np.linalg.norm(source[:, None] - source, axis=2)[np.triu_indices(len(source), 1)]
    return {
        "colour_change": float(changes.mean()),
        "colour_change_max": float(changes.max()),
        "source_colour_difference": float(pairs.mean()),
    }


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


def _evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, from the first to the last."""
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
