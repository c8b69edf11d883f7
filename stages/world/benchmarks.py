"""Benchmarks of rendered people, by the protocols and in the formats of the official ones.

Four pair benchmarks (InsightFace `.bin`), templates (IJB-style folder) and groups (RFW-style folder). All are in the
camera look; `random` stands there in the raster look too, so that the gap between the looks can be read off. They bear
their own names: no number of rendered people is a number of LFW.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from stages.world import WORLD_RANGES, Look, Scene, Traits
from stages.world.datasets import Dataset, dataset
from stages.world.portraits import PersonChange, Picture, Portrait, SceneChange, Shot, as_born, as_met

FOLDS = 10
SPACING = 100_000  # people between the first of one benchmark and the first of the next
CODE = ["world/benchmarks"]
AGE_GAP = 30.0  # years between the two sides of a pair, AgeDB-30's


def turned(scene: Scene, rng: np.random.Generator, least: float, most: float) -> Scene:
    """The head turned left or right by `least` to `most` degrees."""
    return replace(scene, yaw=float(np.radians(rng.uniform(least, most)) * rng.choice((-1, 1))))


def aged(traits: Traits, rng: np.random.Generator, later: float) -> Traits:
    """The person at 20 to 35 years, and `later` years on."""
    return replace(traits, age=float(rng.uniform(20, 35)) + later)


@dataclass(frozen=True)
class Side:
    """One image of every pair: who is shown, and how."""

    traits: PersonChange = as_born
    scene: SceneChange = as_met


frontal = partial(turned, least=0, most=10)
YOUNG, OLD = partial(aged, later=0.0), partial(aged, later=AGE_GAP)

PROTOCOLS: dict[str, tuple[Side, Side]] = {
    "random": (Side(), Side()),  # as LFW
    "pose": (Side(scene=partial(turned, least=0, most=15)), Side(scene=partial(turned, least=25, most=45))),  # as CPLFW
    "profile": (Side(scene=frontal), Side(scene=partial(turned, least=55, most=75))),  # as CFP-FP
    "age": (Side(traits=YOUNG), Side(traits=OLD)),  # as AgeDB-30
}
VALIDATION = "validation"  # of other people: no test, so that it may choose an epoch
BENCHMARKS = (*PROTOCOLS, "quality", "groups", VALIDATION)  # the order fixes who is in which: append only


def folds(people: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Pairs (left, right) of people's numbers: in each of 10 folds all genuine pairs, then as many impostor pairs.

    Each person is in one fold, with one genuine pair (the left image of the person with the right one) and two impostor
    pairs (left with another's right, right with another's left), so that every image is used twice.
    """
    for fold in np.array_split(np.arange(people), FOLDS):
        ring = rng.permutation(fold)
        yield from zip(fold.tolist(), fold.tolist(), strict=True)
        yield from zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True)


def first_person(benchmark: str) -> int:
    """The identity number of a benchmark's first person."""
    return WORLD_RANGES["benchmarks"] + SPACING * BENCHMARKS.index(benchmark)


def pair_benchmark(folder: Path, name: str, pairs: int, size: int, seed: int, look: Look = "camera") -> Dataset:
    """A `.bin` of aligned 112 px JPEG images in 10 identity-disjoint folds of as many genuine as impostor pairs.

    Args:
        folder: where `<name>.bin` will stand; of the raster look `<name>-raster.bin`.
        name: one of `PROTOCOLS`, or `VALIDATION`, pairs as of `random`.
        pairs: a multiple of 20, at least 40.
        size: px of the rendered image, before it is aligned.
        seed: of the world.
        look: `camera` or `raster`: the same people in the same scenes.
    """
    left, right = PROTOCOLS["random" if name == VALIDATION else name]
    heads: list[tuple[PersonChange, tuple[Shot, ...]]]
    if left.traits == right.traits:
        heads = [(left.traits, (Shot(0, left.scene), Shot(1, right.scene)))]
    else:
        heads = [(left.traits, (Shot(0, left.scene),)), (right.traits, (Shot(1, right.scene),))]
    first = first_person(name)
    portraits = [
        Portrait(first + person, shots, look, size, seed, traits, "aligned")
        for person in range(pairs // 2)
        for traits, shots in heads
    ]
    writer = partial(_write_bin, pairs=list(folds(pairs // 2, np.random.default_rng((seed, first)))))
    path = folder / (f"{name}.bin" if look == "camera" else f"{name}-{look}.bin")
    return dataset(path, portraits, writer, name, pairs, size, seed, look, code=CODE)


def _write_bin(path: Path, pictures: Iterator[list[Picture]], pairs: list[tuple[int, int]]) -> None:
    images = [picture.encoded for portrait in pictures for picture in portrait]
    sides = [images[2 * person + side] for pair in pairs for side, person in enumerate(pair)]
    with path.open("wb") as file:
        pickle.dump((sides, [left == right for left, right in pairs]), file, protocol=4)


def template_benchmark(folder: Path, people: int, size: int, seed: int) -> Dataset:
    """An IJB-style folder `quality`: templates of good stills, of poor stills, and of the frames of a poor video.

    A person has three templates. Pairs are all genuine ones and all impostor ones. `meta/` holds besides IJB-C's two
    galleries (halves of the people, by their good stills) and the probes (all other templates) for identification.
    """
    frames = (as_met, moved, moved)
    shots = (Shot(0), Shot(1), Shot(2, poor), Shot(3, poor), Shot(4, poor, frames))
    first = first_person("quality")
    portraits = [Portrait(first + person, shots, "camera", size, seed, crop="found") for person in range(people)]
    writer = partial(_write_templates, people=people)
    return dataset(folder / "quality", portraits, writer, "quality", people, size, seed, code=CODE)


TEMPLATES = (0, 0, 1, 1, 2, 2, 2)  # of a person's seven pictures: the template
MEDIA = (0, 1, 2, 3, 4, 4, 4)  # and the medium


def poor(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene as a bad camera sees it."""
    return replace(scene, quality=float(rng.uniform(0.0, 0.3)))


def moved(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another frame of the same video: the head a few degrees on, the camera's blur, cast and compression the same."""
    yaw, pitch, roll = (np.array((scene.yaw, scene.pitch, scene.roll)) + rng.normal(0, np.radians(4), 3)).tolist()
    return replace(scene, yaw=yaw, pitch=pitch, roll=roll)


def _write_templates(path: Path, pictures: Iterator[list[Picture]], people: int) -> None:
    meta, loose = path / "meta", path / "loose_crop"
    meta.mkdir(parents=True)
    loose.mkdir()
    media: list[str] = []
    points: list[str] = []
    for person, portrait in enumerate(pictures):
        for picture, template, medium in zip(portrait, TEMPLATES, MEDIA, strict=True):
            name = f"{len(media) + 1}.jpg"
            (loose / name).write_bytes(picture.encoded)
            media.append(f"{name} {3 * person + template + 1} {5 * person + medium + 1}")
            points.append(f"{name} {_numbers(picture.points)} {picture.score:.6f}")
    _write_lines(meta / "quality_face_tid_mid.txt", media)
    _write_lines(meta / "quality_name_5pts_score.txt", points)
    templates = [(template + 1, template // 3 + 1) for template in range(3 * people)]  # (template, person), from 1
    _write_lines(
        meta / "quality_template_pair_label.txt",
        [f"{a} {b} {int(left == right)}" for (a, left), (b, right) in combinations(templates, 2)],
    )
    good = [(template, person) for template, person in templates if template % 3 == 1]
    rest = [(template, person) for template, person in templates if template % 3 != 1]
    for name, rows in (("gallery_G1", good[::2]), ("gallery_G2", good[1::2]), ("probe_mixed", rest)):
        _write_lines(
            meta / f"quality_1N_{name}.csv", ["TEMPLATE_ID,SUBJECT_ID", *(f"{tid},{sid}" for tid, sid in rows)]
        )


GROUPS = {  # mean shares of the ancestries, in the order of `stages.world.traits.ANCESTRIES`
    "african": (0.9, 0.05, 0.05),
    "asian": (0.05, 0.9, 0.05),
    "caucasian": (0.05, 0.05, 0.9),
    "mixed": (1 / 3, 1 / 3, 1 / 3),
}


def of_group(traits: Traits, rng: np.random.Generator, shares: tuple[float, float, float]) -> Traits:
    """The person with about these shares of ancestry."""
    drawn = rng.dirichlet(20 * np.array(shares))
    return replace(traits, ancestry=(float(drawn[0]), float(drawn[1]), float(1 - drawn[0] - drawn[1])))


def group_benchmark(folder: Path, pairs: int, size: int, seed: int) -> Dataset:
    """An RFW-style folder `groups`: for each of four ancestries `pairs` pairs in 10 identity-disjoint folds."""
    first = first_person("groups")
    portraits = [
        Portrait(
            first + group * SPACING // 10 + person,
            (Shot(0), Shot(1)),
            "camera",
            size,
            seed,
            partial(of_group, shares=shares),
            "found",
        )
        for group, shares in enumerate(GROUPS.values())
        for person in range(pairs // 2)
    ]
    numbers = list(folds(pairs // 2, np.random.default_rng((seed, first))))
    writer = partial(_write_groups, people=pairs // 2, pairs=numbers)
    return dataset(folder / "groups", portraits, writer, "groups", pairs, size, seed, code=CODE)


def _write_groups(path: Path, pictures: Iterator[list[Picture]], people: int, pairs: list[tuple[int, int]]) -> None:
    for group in GROUPS:
        texts = path / "txts" / group
        texts.mkdir(parents=True)
        names = [f"{group}.{person:05}" for person in range(people)]
        landmarks = []
        for label, name in enumerate(names):
            (path / "data" / group / name).mkdir(parents=True)
            for number, picture in enumerate(next(pictures), 1):
                file = f"data/{group}/{name}/{name}_{number:04}.jpg"
                (path / file).write_bytes(picture.encoded)
                landmarks.append(f"{file}\t{label}\t{_numbers(picture.points, chr(9))}")
        _write_lines(texts / f"{group}_lmk.txt", landmarks)
        _write_lines(texts / f"{group}_people.txt", [f"{name}\t2" for name in names])
        _write_lines(
            texts / f"{group}_pairs.txt",
            [
                f"{names[left]}\t1\t2" if left == right else f"{names[left]}\t1\t{names[right]}\t2"
                for left, right in pairs
            ],
        )


def _numbers(points: np.ndarray | None, separator: str = " ") -> str:
    assert points is not None
    return separator.join(f"{coordinate:.3f}" for coordinate in points.ravel())


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")
