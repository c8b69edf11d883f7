"""Images to raw embeddings: any network over any benchmark, computed once and kept in the cache folder.

The cache (`$R2R_CACHE/embeddings`, by default under `~/.cache/render2real`) is keyed by the network's bytes, the
benchmark's images and how they were cropped, so that a protocol runs again in seconds.

Notation: n images, v views (the image, and with flip its mirror image), d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from stages.align import align_images
from stages.align.mtcnn import MTCNN
from stages.align.warp import centre_crop, similarity, warp
from stages.embed.encoder import Encoder
from stages.evaluate.benchmarks import Images
from stages.params import pick_device
from stages.store import Shard, StoreError, cache_folder, decode, file_digest, fingerprint, is_current, write_shard
from stages.train.backbones import SIZE, load_backbone, normalise

BEYOND = 0.5  # of the image's longer side: landmarks of a profile may lie outside by less


@dataclass(frozen=True)
class Network:
    """A network as the protocols see it.

    Attributes:
        digest: SHA-256 of its file.
        channels: `rgb` or `bgr`, the order it is fed.
        forward: [b, 112, 112, 3] uint8 RGB -> [b, d] float32, raw.
    """

    path: Path
    digest: str
    channels: str
    forward: Callable[[np.ndarray], np.ndarray]


def load_network(path: Path, channels: str | None = None, device: str = "auto") -> Network:
    """Load our checkpoint, AdaFace's `.ckpt`, insightface's `.pth`, or an ONNX encoder.

    Args:
        path: the file.
        channels: overrides what the model card or the official layout says; an ONNX encoder is fed RGB.
        device: `auto`, `cpu` or `cuda`, of a torch network.

    Raises:
        StoreError: no such file, or no such network.
    """
    if channels not in (None, "rgb", "bgr"):
        raise StoreError(f"channels {channels!r}: rgb or bgr")
    if path.suffix == ".onnx":
        encoder = Encoder(path)
        swap = channels == "bgr"
        return Network(
            path,
            file_digest(path),
            channels or "rgb",
            lambda images: encoder.embed(images[..., ::-1] if swap else images),
        )
    backbone, card = load_backbone(path)
    order = channels or card.channels
    place = torch.device(pick_device(device, "evaluate.device"))
    backbone.to(place)

    @torch.inference_mode()
    def forward(images: np.ndarray) -> np.ndarray:
        return backbone(normalise(torch.from_numpy(images).to(place), order)).float().cpu().numpy()

    return Network(path, file_digest(path), order, forward)


@dataclass(frozen=True)
class Embeddings:
    """Raw embeddings [v, n, d] float32, and whether a face was found in each image [n] (True where none was sought)."""

    views: np.ndarray
    found: np.ndarray


def embed(
    network: Network, images: Images, *, flip: bool, align: bool, batch_size: int, bar: tqdm | None = None
) -> Embeddings:
    """Embed every image, and with `flip` its mirror image; from the cache where they are there.

    Raises:
        StoreError: an image that does not decode, landmarks far outside of their image, or an embedding that is not
            finite.
    """
    crop = crop_mode(images, align)
    key = fingerprint(
        network.digest,
        network.channels,
        images.digest,
        crop,
        flip,
        code=["evaluate/embeddings", "train/backbones", "embed/encoder", "align"],
    )
    path = cache_folder() / "embeddings" / f"{key[:40]}.h5"
    if is_current(path, key):
        with Shard(path) as shard:
            views = [shard["image"], *([shard["mirror"]] if flip else [])]
            found = shard["found"].astype(bool)
        if bar is not None:
            bar.update(len(images))
        return Embeddings(np.stack(views), found)

    views_of: list[list[np.ndarray]] = [[], []] if flip else [[]]
    found_of = []
    for begin in range(0, len(images), batch_size):
        numbers = range(begin, min(begin + batch_size, len(images)))
        batch, seen = load(images, numbers, align)
        found_of.append(seen)
        for view, outputs in enumerate(views_of):
            outputs.append(network.forward(np.ascontiguousarray(batch[:, :, ::-1] if view else batch)))
            broken = ~np.isfinite(outputs[-1]).all(axis=1)
            if broken.any():
                name = images.names[numbers[int(np.argmax(broken))]]
                raise StoreError(f"{network.path}: its embedding of {name} is not finite; the network is broken")
        if bar is not None:
            bar.update(len(numbers))
    result = Embeddings(np.stack([np.concatenate(outputs) for outputs in views_of]), np.concatenate(found_of))
    names = ("image", "mirror")[: len(views_of)]
    write_shard(path, {**dict(zip(names, result.views, strict=True)), "found": result.found}, fingerprint=key)
    return result


def crop_mode(images: Images, align: bool) -> str:
    """How an image becomes 112 x 112: `given`, by `landmarks`, by `detection`, or the `centre`."""
    if images.aligned:
        return "given"
    if images.landmarks is not None:
        return "landmarks"
    return "detection" if align else "centre"


def load(images: Images, numbers: Sequence[int], align: bool) -> tuple[np.ndarray, np.ndarray]:
    """Decode and crop: [b, 112, 112, 3] uint8 RGB, and whether a face was found in each [b].

    An image in which none is found is cropped to its centre, so that every pair is measured.
    """
    crop = crop_mode(images, align)
    decoded = list(_threads().map(decode, [images.encoded(number) for number in numbers], _names(images, numbers)))
    found = np.ones(len(decoded), bool)
    if crop == "given":
        cropped = [short_side(image, SIZE) for image in decoded]
        for image, number in zip(cropped, numbers, strict=True):
            if image.shape[:2] != (SIZE, SIZE):
                raise StoreError(f"{images.names[number]}: {image.shape[1]} x {image.shape[0]} px is not square")
    elif crop == "landmarks":
        cropped = list(_threads().map(lambda image, number: by_landmarks(images, image, number), decoded, numbers))
    elif crop == "detection":
        aligned = align_images(decoded, _detector())
        return aligned.images, aligned.found
    else:
        cropped = [centre_crop(image) for image in decoded]
    return np.stack(cropped), found


def _names(images: Images, numbers: Sequence[int]) -> list[str]:
    return [str(images.names[number]) for number in numbers]


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor()


@cache
def _detector() -> MTCNN:
    return MTCNN()


def short_side(image: np.ndarray, size: int) -> np.ndarray:
    """Scale the short side to `size`, unless the width has it, as insightface's `load_bin` does (cubic)."""
    height, width = image.shape[:2]
    if width == size:
        return image
    scale = size / min(height, width)
    shape = (max(size, int(width * scale)), max(size, int(height * scale)))
    return cv2.resize(image, shape, interpolation=cv2.INTER_CUBIC)


def by_landmarks(images: Images, image: np.ndarray, number: int) -> np.ndarray:
    """Warp by the benchmark's own five points.

    Raises:
        StoreError: a point lies far outside of the image: they belong to another one.
    """
    assert images.landmarks is not None
    points = images.landmarks.points[number]
    height, width = image.shape[:2]
    beyond = BEYOND * max(height, width)
    if (points < -beyond).any() or (points > (width + beyond, height + beyond)).any():
        raise StoreError(
            f"{images.landmarks.path}, line {images.landmarks.lines[number]}: landmarks {points.round(1).tolist()} lie "
            f"outside of {images.names[number]} ({width} x {height} px); they belong to other images: unpack both again"
        )
    return warp(image, similarity(points[None])[0])
