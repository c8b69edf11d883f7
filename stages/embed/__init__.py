"""Who is in an image, as a vector: embeddings of the source and target images.

    r2r embed

One shard a part of the source (of DigiFace-1M, a zip) and one for the target, so that a larger source only adds shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stages.align.warp import SIZE
from stages.embed.prototypes import identity_sums
from stages.images import Archive, Faces, read_faces
from stages.run import Job, Part, run as run_parts, threads, total
from stages.store import StoreError, decode, fingerprint, write_json, write_shard

if TYPE_CHECKING:
    from stages.params import Params

CODE = ("embed/__init__", "embed/encoder")
ALIGNED = (*CODE, "align/faces", "align/mtcnn", "align/warp")

Batch = tuple[Any, range]  # a set of images, and the rows of it that are worked on together
Result = dict[str, np.ndarray]


def run(params: Params, root: Path = Path(".")) -> None:
    """Embed `data/source` and `data/target` into `data/embed`.

    Shards: `source/<part>.h5` (identity [n] int64, sample [n] int32) and `target.h5` (name [n], UTF-8 bytes), each with
    embedding [n, d] float32, unit norm, and norm [n] float32, the length that it had. With `embed.align`, face [n]
    bool too: where none was found, the centre crop was embedded.

    Raises:
        StoreError: an image that does not decode, or whose embedding is zero or not finite.
    """
    source, target = read_faces(root / "data/source"), Archive(root / "data/target/target.zip")
    ...
