"""The populations of the embedded world, rendered in processes and written in the field's official formats.

A dataset is a list of portraits and a writer that takes their pictures in order. `make` draws the portraits of all
unfinished datasets, so that no core waits at the end of a file; what a portrait shows depends on the world's seed, the
identity and the sample only, never on the number of processes or on where a killed run stopped.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from tqdm import tqdm

from stages import processes
from stages.store import StoreError, encode, fingerprint, replacing
from stages.world import WORLD_RANGES, Look, Scene, Traits, build_head, render, sample_scene, sample_traits

Crop = Literal["none", "found", "aligned"]
A = TypeVar("A")
B = TypeVar("B")

PersonChange = Callable[[Traits, np.random.Generator], Traits]
SceneChange = Callable[[Scene, np.random.Generator], Scene]

ASSETS = Path(__file__).parent / "assets.npz"
RETAKES = 20  # of one scene before a missing face is an error
RETAKE_STEP = 1000  # sample numbers between a scene and its retake; no dataset has as many samples of an identity
JPEG_QUALITY = 95
TRAITS_STREAM, SCENE_STREAM = 1001, 1002  # random streams of what a dataset changes about a person or a scene
SOURCE_ZIP = re.compile(r"subjects_\d+-\d+_\d+_imgs\.zip")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of every zip member: the bytes depend on the content only


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


def in_processes(work: Callable[[A], B], items: Iterable[A], workers: int = 0) -> Generator[B, None, None]:
    """`processes.in_processes`, one a core by default, with kernels that the first compiles for all."""
    return processes.in_processes(work, items, workers or processes.cores(), knob="fetch.workers", first=warm)


@dataclass(frozen=True)
class Dataset:
    """A file or folder, what it is made from, and how its pictures are written."""

    path: Path
    fingerprint: str
    portraits: Sequence[Portrait]
    write: Callable[[Path, Iterator[list[Picture]]], None]  # to a temporary path; one list a portrait

    @property
    def images(self) -> int:
        """Number of pictures."""
        return sum(len(shot.frames) for portrait in self.portraits for shot in portrait.shots)

    @property
    def card(self) -> Path:
        """The JSON file beside it that says what it was made from; a zip says it in its comment."""
        return self.path.with_suffix(".json")

    def is_current(self) -> bool:
        """Whether it stands there whole, made from what it would be made from now."""
        if self.path.suffix == ".zip":
            return comment(self.path) == self.fingerprint
        try:
            return self.path.exists() and json.loads(self.card.read_text())["fingerprint"] == self.fingerprint
        except (OSError, ValueError, KeyError, TypeError):
            return False


def make(datasets: Sequence[Dataset], workers: int = 0, title: str = "fetch") -> None:
    """Make the datasets that are not there or not current, one after the other, with one progress bar over all.

    Raises:
        StoreError: a process died, or a person has no face.
        OSError: a full disk; what was being written is removed.
    """
    for folder in {dataset.path.parent for dataset in datasets}:
        for leftover in folder.glob(".*.partial"):  # of a killed run
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    missing = [dataset for dataset in datasets if not dataset.is_current()]
    total, todo = (sum(dataset.images for dataset in some) for some in (datasets, missing))
    with tqdm(total=total, initial=total - todo, desc=title, unit=" images") as bar:
        if not missing:
            return
        portraits = chain.from_iterable(dataset.portraits for dataset in missing)
        with closing(in_processes(photograph, portraits, workers)) as pictures:
            for dataset in missing:
                bar.set_postfix_str(dataset.path.name, refresh=False)
                _make(dataset, islice(pictures, len(dataset.portraits)), bar)


def _make(dataset: Dataset, pictures: Iterator[list[Picture]], bar: tqdm) -> None:
    counts = {"images": 0, "discarded": 0}

    def counted() -> Iterator[list[Picture]]:
        for portrait in pictures:
            counts["images"] += len(portrait)
            counts["discarded"] += sum(picture.discarded for picture in portrait)
            bar.update(len(portrait))
            yield portrait

    if dataset.path.suffix == ".zip":
        with replacing(dataset.path) as partial:
            dataset.write(partial, counted())
        return
    dataset.card.unlink(missing_ok=True)  # first: it must never speak of another content
    with (replacing if dataset.path.suffix else replacing_folder)(dataset.path) as partial:
        dataset.write(partial, counted())
    with replacing(dataset.card) as partial:
        partial.write_text(json.dumps({"fingerprint": dataset.fingerprint, **counts}, indent=2) + "\n")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, moved to it when the block ends well and removed when it does not."""
    partial = path.parent / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def comment(path: Path) -> str:
    """The comment of a zip; empty where there is no whole zip."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.comment.decode("ascii", "replace")
    except (zipfile.BadZipFile, OSError):
        return ""


def write_zip(path: Path, pictures: Iterator[list[Picture]], subjects: Iterable[int], stamp: str) -> None:
    """Members `<subject>/<k>.png`, stored (a PNG does not deflate), the fingerprint as the zip's comment."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.comment = stamp.encode()
        for subject, portrait in zip(subjects, pictures, strict=True):
            for k, picture in enumerate(portrait):
                member = zipfile.ZipInfo(f"{subject}/{k}.png", EPOCH)
                member.external_attr = 0o644 << 16
                file.writestr(member, picture.encoded)


def population(path: Path, name: str, subjects: range, images_per_id: int, look: Look, size: int, seed: int) -> Dataset:
    """A zip of people 0, 1, … of a population (`WORLD_RANGES`), in DigiFace-1M's layout."""
    shots = tuple(Shot(sample) for sample in range(images_per_id))
    stamp = fingerprint(ASSETS, name, subjects.start, subjects.stop, images_per_id, look, size, seed, code=["world"])
    portraits = [Portrait(WORLD_RANGES[name] + subject, shots, look, size, seed) for subject in subjects]
    return Dataset(path, stamp, portraits, partial(write_zip, subjects=subjects, stamp=stamp))


def source_zips(
    folder: Path, name: str, identities: range, images_per_id: int, look: Look, size: int, seed: int, ids_per_zip: int
) -> list[Dataset]:
    """DigiFace-1M zips of fixed ranges of `ids_per_zip` people that cover `identities`, each rendered whole."""
    firsts = range(identities.start // ids_per_zip * ids_per_zip, identities.stop, ids_per_zip)
    return [
        population(
            folder / f"subjects_{first}-{first + ids_per_zip - 1}_{images_per_id}_imgs.zip",
            name,
            range(first, first + ids_per_zip),
            images_per_id,
            look,
            size,
            seed,
        )
        for first in firsts
    ]


def remove_stale(folder: Path, datasets: Iterable[Dataset]) -> None:
    """Remove what an earlier run rendered into this folder and what is not wanted now.

    Raises:
        StoreError: a zip there is not ours; it may be a download of many hours.
    """
    wanted = {path for dataset in datasets for path in (dataset.path, dataset.card)}
    stale = sorted(path for path in folder.glob("*.zip") if path not in wanted)
    for path in stale:
        if not (SOURCE_ZIP.fullmatch(path.name) and re.fullmatch("[0-9a-f]{64}", comment(path))):
            raise StoreError(f"{path}: not rendered by the embedded world, and it would mix with it; move it away")
    for card in sorted(path for path in folder.glob("*.json") if path not in wanted):
        stale += [path for path in (card.with_suffix(".bin"), card.with_suffix(""), card) if path.exists()]
    for path in stale:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def render_source(
    folder: Path,
    name: str,
    identities: range,
    images_per_id: int,
    look: Look,
    size: int = 112,
    seed: int = 0,
    workers: int = 0,
    ids_per_zip: int = 50,
) -> None:
    """Render people of a population into a folder of DigiFace-1M zips; a second call goes on where the first stopped.

    Args:
        folder: where the zips will stand, and nothing else.
        name: population: `source`, `target`, `benchmarks`, `pretrain` or `second`.
        identities: people of it; whole zips are rendered, and subjects bear these numbers.
        images_per_id: samples 0, 1, … of each.
        look: `raster` or `camera`.
        size: px.
        seed: of the world.
        workers: processes; 0 is one a core.
        ids_per_zip: the fixed range of a zip.
    """
    datasets = source_zips(folder, name, identities, images_per_id, look, size, seed, ids_per_zip)
    remove_stale(folder, datasets)
    make(datasets, workers, f"{name} {look}")
