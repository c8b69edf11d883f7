"""Image-to-image methods: a rendered image in, the same face in the target's look out (Syn2Auth's common form).

A method's `method.py` derives from `PixelMethod` and writes `load`, which reads its weights and gives a function of
images; its batches are an identity's images of one size, so that their make-up is fixed.

Notation: n images of an identity, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from stages.images import read_faces
from stages.knobs import pick_device
from stages.store import StoreError, fingerprint
from stages.transfer.method import Portraits

if TYPE_CHECKING:
    from stages.params import Params

CODE = ("transfer/pixels",)
Translate = Callable[[np.ndarray], np.ndarray]


class PixelMethod:
    """What image-to-image methods share: see `stages.transfer.method.Method`.

    Args:
        params: all knobs.
        root: the project's folder.
        device: of torch; default is the knob `transfer.device`.

    Raises:
        StoreError: the source is missing, or what `transfer.weights` names.
    """

    code: ClassVar[tuple[str, ...]]  # the modules that change its images
    without: ClassVar[str] = "run `r2r fit`, or name a file"  # what to do without its weights

    def __init__(self, params: Params, root: Path = Path("."), device: str | None = None) -> None:
        self.params, self.knobs, self.root = params, params.transfer, root
        self.device = torch.device(device or pick_device(self.knobs.device, "transfer.device"))
        self.source = read_faces(root / "data/source")
        self.weights = root / self.knobs.weights
        if not self.weights.exists():
            raise StoreError(f"{self.weights}: no weights of method {params.method}; {self.without}")

    def load(self) -> Translate:
        """Read the weights; gives what maps images [n, h, w, 3] uint8 RGB to [n, h', w', 3] uint8 RGB."""
        raise NotImplementedError

    @cached_property
    def network(self) -> Translate:
        """What `load` gives, loaded with the first image, on as many threads of a CPU as the knobs say."""
        if self.device.type == "cpu":
            torch.set_num_threads(self.knobs.threads)
        return self.load()

    @cached_property
    def digest(self) -> str:
        """Fingerprint of all that an image is made from, but for the image."""
        knobs = asdict(self.knobs) | {"device": self.device.type, "weights": ""}
        return fingerprint(self.params.method, self.weights, knobs, code=(*CODE, *self.code))

    def origin(self, identity: int) -> list[str]:
        """See `stages.transfer.method.Method`."""
        return [self.source.digest(self.rows(identity)), self.digest]

    def rows(self, identity: int) -> list[int]:
        """The rows of an identity's images in the source: its samples 0 to images_per_id - 1."""
        return [row for row in self.source.rows(identity) if self.source.sample[row] < self.params.images_per_id]

    def portraits(self, identity: int) -> Portraits:
        """See `stages.transfer.method.Method`; an image keeps its sample's number."""
        rows = self.rows(identity)
        images = {row: self.source.image(row) for row in rows}
        made: dict[int, np.ndarray] = {}
        for _, same in groupby(sorted(rows, key=lambda row: images[row].shape), lambda row: images[row].shape):
            batch = list(same)
            made |= zip(batch, self.network(np.stack([images[row] for row in batch])), strict=True)
        sample = self.source.sample[rows].astype(np.int32)
        none = np.full(len(rows), np.nan, np.float32)
        return Portraits([made[row] for row in rows], sample, none, np.zeros(len(rows), np.int64))

    def asked(self, identity: int, embeddings: np.ndarray) -> np.ndarray:
        """See `stages.transfer.method.Method`: each image is to show whom its own source image shows."""
        mine = np.isin(list(self.source.rows(identity)), self.rows(identity))
        return embeddings[mine]
