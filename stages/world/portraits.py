"""Portraits of the people of the embedded world: what a picture shows, and how it is taken.

What a portrait shows depends on the world's seed, the identity and the sample only, never on the number of processes or
on where a killed run stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Literal, get_args

import numpy as np

from stages.store import StoreError, encode
from stages.world import Look, Scene, Traits, build_head, render, sample_scene, sample_traits

Crop = Literal["none", "found", "aligned"]
PersonChange = Callable[[Traits, np.random.Generator], Traits]
SceneChange = Callable[[Scene, np.random.Generator], Scene]

RETAKES = 20  # of one scene before a missing face is an error
RETAKE_STEP = 1000  # sample numbers between a scene and its retake; no dataset has as many samples of an identity
JPEG_QUALITY = 95
TRAITS_STREAM, SCENE_STREAM = 1001, 1002  # random streams of what a dataset changes about a person or a scene


def as_born(traits: Traits, rng: np.random.Generator) -> Traits:
    """The person as sampled."""
    return traits


def as_met(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene as sampled."""
    return scene


@dataclass(frozen=True)
class Shot:
    """One scene of a person, or the frames of a video of it."""

    sample: int
    scene: SceneChange = as_met
    frames: tuple[SceneChange, ...] = (as_met,)


@dataclass(frozen=True)
class Portrait:
    """One head and its shots: the unit of work of a process."""

    identity: int  # of the world
    shots: tuple[Shot, ...]
    look: Look
    size: int  # px
    seed: int  # of the world
    traits: PersonChange = as_born
    crop: Crop = "none"  # as rendered (PNG); a face was found in it; aligned to 112 px (both JPEG)

    @property
    def images(self) -> int:
        """Number of pictures."""
        return sum(len(shot.frames) for shot in self.shots)


@dataclass(frozen=True)
class Picture:
    """An encoded image; where a face was looked for, its five points [5, 2] px and the detector's score."""

    encoded: bytes
    points: np.ndarray | None = None
    score: float = 1.0
    discarded: int = 0  # images thrown away before this one, since no face was found


def photograph(portrait: Portrait) -> list[Picture]:
    """Render the shots of a portrait: one picture a frame, in order.

    A shot in one of whose frames the detector misses the face is taken again, as a whole, in the scene `RETAKE_STEP`
    samples further.

    Raises:
        StoreError: no face in `RETAKES` scenes.
    """
    traits = portrait.traits(
        sample_traits(portrait.identity, portrait.seed), _rng(portrait, sample=0, purpose=TRAITS_STREAM)
    )
    head = build_head(traits)

    def take(shot: Shot, attempt: int) -> list[np.ndarray]:
        sample = shot.sample + attempt * RETAKE_STEP
        rng = _rng(portrait, sample, SCENE_STREAM)
        scene = shot.scene(sample_scene(portrait.identity, sample, portrait.seed), rng)
        return [render(head, frame(scene, rng), portrait.look, portrait.size) for frame in shot.frames]

    if portrait.crop == "none":
        return [Picture(encode(image)) for shot in portrait.shots for image in take(shot, 0)]
    taken: dict[Shot, list[Picture]] = {}
    for attempt in range(RETAKES):
        shots = [shot for shot in portrait.shots if shot not in taken]
        pictures = iter(_find_faces([image for shot in shots for image in take(shot, attempt)], portrait.crop))
        for shot in shots:
            found = list(islice(pictures, len(shot.frames)))
            frames = [picture for picture in found if picture]
            if len(frames) == len(found):
                frames[0] = replace(frames[0], discarded=attempt * len(frames))
                taken[shot] = frames
        if len(taken) == len(portrait.shots):
            return [picture for shot in portrait.shots for picture in taken[shot]]
    raise StoreError(
        f"identity {portrait.identity}, {portrait.look} look, {portrait.size} px: no face found in {RETAKES} scenes"
    )


def _rng(portrait: Portrait, sample: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng((portrait.seed, portrait.identity, sample, purpose))


def _find_faces(images: list[np.ndarray], crop: Crop) -> list[Picture | None]:
    """A picture of the largest face of each image, or none."""
    from stages.align.warp import ARCFACE_POINTS, similarity, warp

    pictures: list[Picture | None] = []
    for image, faces in zip(images, _detector().detect(images), strict=True):
        if not len(faces):
            pictures.append(None)
            continue
        points = faces.landmarks[0]
        if crop == "aligned":
            image = warp(image, similarity(points[None], ARCFACE_POINTS)[0])
        pictures.append(Picture(encode(image, "jpeg", JPEG_QUALITY), points, float(faces.scores[0])))
    return pictures


@cache
def _detector():
    from stages.align.mtcnn import MTCNN

    return MTCNN()


def warm() -> None:
    """Compile the kernels of both looks into numba's cache on disk."""
    head = build_head(sample_traits(0))
    for look in get_args(Look):
        render(head, sample_scene(0, 0), look, 112)
