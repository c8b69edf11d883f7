"""What a transfer method learns from unlabelled source and target images, before it makes any.

    r2r fit

Identity labels never reach it: what a method is handed knows images alone. A method that learns nothing, or whose
`transfer.weights` names a file, leaves `data/fit` empty.

Notation: n images of a batch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from stages.images import Archive, Faces, read_faces
from stages.knobs import check, knob, knobs, pick_device
from stages.pictures import save_png, sheet
from stages.store import StoreError, emptied, fingerprint, nothing, write_json
from stages.training import Diverged, Loop, made_once, write_curve
from stages.transfer.method import LEARNED, seed_of

if TYPE_CHECKING:
    from stages.params import Params
    from stages.transfer.learner import Learner

SHOWN = 8  # source images on the sheet
LOOKS = 5  # rows of the sheet: the images at the start and at rising numbers of steps


@knobs("fit")
class Fit:
    """What a method learns from, and for how long."""

    source_images: int = knob(1000, "drawn by seed; the paper's five shards of each domain", ge=1)
    target_images: int = knob(1000, "drawn by seed", ge=1)
    checkpoint_minutes: float = knob(1.0, "minutes between checkpoints", ge=0)
    threads: int = knob(2, "of torch on a CPU; results are equal for equal thread counts", ge=1)


class Unlabelled:
    """Images without identities, drawn from a set by seed.

    Raises:
        ParamsError: the set has fewer.
    """

    def __init__(self, images: Faces | Archive, count: int, seed: int, knob: str) -> None:
        check(count <= len(images), f"{knob} is {count}, but {images.path} has {len(images)} images")
        self._images = images
        self._rows = np.sort(np.random.default_rng(seed).choice(len(images), count, replace=False)).tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, number: int) -> np.ndarray:
        """[h, w, 3] uint8 RGB."""
        return self._images.image(self._rows[number])

    def digest(self) -> str:
        """Identity of the images' content."""
        return self._images.digest(self._rows)

    def batch(self, numbers: Sequence[int], load: int, crop: int, rng: np.random.Generator) -> Tensor:
        """Images scaled to `load` px, cropped at random to `crop` px and mirrored at random, as CUT's loader does.

        Returns:
            [n, 3, crop, crop] float32 in [-1, 1].
        """
        made = np.empty((len(numbers), crop, crop, 3), np.uint8)
        for place, number in enumerate(numbers):
            image = self.image(number)
            if image.shape[:2] != (load, load):
                image = cv2.resize(image, (load, load), interpolation=cv2.INTER_CUBIC)
            y, x = rng.integers(load - crop + 1, size=2)
            window = image[y : y + crop, x : x + crop]
            made[place] = window[:, ::-1] if rng.random() < 0.5 else window
        return torch.from_numpy(made).permute(0, 3, 1, 2).float() / 127.5 - 1


class Sheet:
    """The same source images through the network at rising numbers of steps, a part of the checkpoint."""

    def __init__(self, images: Sequence[np.ndarray], steps: int) -> None:
        self.images = [np.ascontiguousarray(image) for image in images]
        self.due = sorted({steps * look // (LOOKS - 1) for look in range(LOOKS)})
        self.rows: dict[str, list[Tensor]] = {}

    def look(self, learner: Learner, step: int) -> None:
        """Put the images through, if they are due after so many steps."""
        if step in self.due and str(step) not in self.rows:
            self.rows[str(step)] = [torch.from_numpy(learner.translate(image[None])[0]) for image in self.images]

    def draw(self, path: Path) -> None:
        """Save it as a PNG."""
        rows = {f"after {step} steps": [image.numpy() for image in made] for step, made in self.rows.items()}
        save_png(path, sheet({"source": self.images} | rows))

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The rows by the number of steps."""
        return dict(self.rows)

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Take them back."""
        self.rows = dict(state)


def run(params: Params, root: Path = Path(".")) -> None:
    """Learn the method; write `data/fit/`, `metrics/fit.json`, `plots/fit/sheet.png` and `plots/fit/fit.csv`.

    Raises:
        ParamsError: fewer images than asked for, or a loss that is no longer finite; the last sheet is saved then.
        StoreError: source or target is missing or broken.
    """
    knobs, folder, plots = params.transfer, root / "data/fit", root / "plots/fit"
    if not (knobs.learns and knobs.weights == LEARNED):
        for empty in (folder, plots):
            nothing(empty, f"method {params.method} learns nothing")
        write_json(root / "metrics/fit.json", {"images": 0})
        return
    module = importlib.import_module(f"stages.transfer.{params.method}.learner")
    device = torch.device(pick_device(knobs.device, "transfer.device"))
    faces, archive = read_faces(root / "data/source"), Archive(root / "data/target/target.zip")
    domains = {
        "source": Unlabelled(
            faces, params.fit.source_images, seed_of(params.seed, "fit", "source"), "fit.source_images"
        ),
        "target": Unlabelled(
            archive, params.fit.target_images, seed_of(params.seed, "fit", "target"), "fit.target_images"
        ),
    }
    drawn = [domain.digest() for domain in domains.values()]
    files = {name: root / path for name, path in knobs.paths().items() if path and path != LEARNED}
    if missing := next((name for name, path in files.items() if not path.exists()), None):
        raise StoreError(f"{files[missing]}: transfer.{missing} names no file")
    made_from = asdict(knobs) | dict.fromkeys(files, "") | {"device": device.type}
    run_by = [params.seed, params.fit.threads, torch.__version__]
    key = fingerprint(params.method, drawn, run_by, made_from, *files.values(), code=("fit", *module.CODE))
    here = replace(knobs, **{name: str(path) for name, path in files.items()})
    entry = made_once(
        "fit",
        key,
        "content",
        lambda path: learn(params, root, lambda: module.Learner(here, device), device, domains, key, path),
    )
    entry.place(folder)
    emptied(plots)
    for name in ("sheet.png", "fit.csv"):
        (folder / name).rename(plots / name)
    write_json(root / "metrics/fit.json", {name: round(value, 6) for name, value in entry.numbers.items()})


def learn(
    params: Params,
    root: Path,
    build: Callable[[], Learner],
    device: torch.device,
    domains: dict[str, Unlabelled],
    key: str,
    path: Path,
) -> dict[str, float]:
    """Train what `build` gives on the two domains; write weights, sheet and curve into the folder `path`."""
    knobs, seed = params.transfer, params.seed
    torch.set_num_threads(params.fit.threads)
    torch.use_deterministic_algorithms(device.type == "cpu")  # CUDA has no such gradient of a mirrored border
    torch.manual_seed(seed_of(seed, "fit", "weights"))
    learner, source = build(), domains["source"]
    shown = Sheet([source.image(number) for number in range(min(SHOWN, len(source)))], knobs.steps)
    hint = f"Lower transfer.lr ({knobs.lr}); plots/fit/sheet.png shows the last images"
    minutes = params.fit.checkpoint_minutes
    parts = {**learner.parts, "sheet": shown}
    loop = Loop("fit", key, parts, knobs.steps, learner.losses, minutes, knobs.batch_size, hint)
    try:
        for step in loop:
            shown.look(learner, step)
            of_source, of_target = (
                domain.batch(
                    numbers(len(domain), knobs.batch_size, step, seed_of(seed, "fit", name)),
                    knobs.load,
                    knobs.crop,
                    np.random.default_rng(seed_of(seed, "fit", name, step)),
                ).to(device)
                for name, domain in domains.items()
            )
            generator = torch.Generator(device).manual_seed(seed_of(seed, "fit", "step", step))
            loop.record(**learner.step(of_source, of_target, generator))
        shown.look(learner, knobs.steps)
    except Diverged:
        shown.draw(root / "plots/fit/sheet.png")
        raise
    path.mkdir()
    learner.save(path)
    shown.draw(path / "sheet.png")
    write_curve(path / "fit.csv", loop.curve)
    counts = {f"{name}_images": len(domain) for name, domain in domains.items()}
    return {"images": knobs.steps * knobs.batch_size, "steps": knobs.steps} | counts | loop.means()


def numbers(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which of `count` images a step sees: every pass over them is a new permutation."""
    places = range(step * batch_size, (step + 1) * batch_size)
    return [int(order(count, seed, place // count)[place % count]) for place in places]


@lru_cache(4)  # this pass and the next, of both domains
def order(count: int, seed: int, pass_: int) -> np.ndarray:
    """The permutation of a pass, [count]."""
    return np.random.default_rng([seed, pass_]).permutation(count)
