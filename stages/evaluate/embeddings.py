"""Images to raw embeddings: any network over any benchmark, computed once and kept in the cache folder.

They are kept by the network's bytes, the content of the benchmark's images, how these were cropped, and the kind of
device, so that a protocol runs again in seconds.

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
from torch import nn
from tqdm import tqdm

from stages.align.faces import CODE as ALIGN_CODE
from stages.align.faces import align_images, detection, detector
from stages.align.knobs import Align
from stages.align.warp import SIZE, centre_crop, similarity, warp
from stages.embed.encoder import Encoder
from stages.evaluate.benchmarks import Images
from stages.knobs import ParamsError, pick_device
from stages.run import cores, threads
from stages.store import Shard, StoreError, adding, decode, file_digest, find, fingerprint, locked, write_shard
from stages.train.backbones import load_backbone, normalise

CODE = ("evaluate/embeddings", "train/networks", "train/backbones", "embed/encoder", *ALIGN_CODE)
FEW = 16  # photographs in memory at a time, where a face is sought
PART = 8  # images that a thread of a CPU takes: sums within an image are in one order, however many threads there are
BEYOND = 0.5  # of the image's longer side: landmarks of a profile may lie outside by less


@dataclass(frozen=True)
class Network:
    """A network as the protocols see it.

    Attributes:
        digest: SHA-256 of its file.
        channels: `rgb` or `bgr`, the order it is fed.
        device: the kind that it runs on, `cpu` or `cuda`.
        forward: [b, 112, 112, 3] uint8 RGB -> [b, d] float32, raw.
    """

    path: Path
    digest: str
    channels: str
    device: str
    forward: Callable[[np.ndarray], np.ndarray]


def load_network(path: Path, channels: str | None = None, device: str = "auto") -> Network:
    """Load our checkpoint, AdaFace's `.ckpt`, insightface's `.pth`, or an ONNX encoder.

    Args:
        path: the file.
        channels: overrides what the model card or the official layout says; an ONNX encoder is fed RGB.
        device: `auto`, `cpu` or `cuda`, of a torch network.

    Raises:
        ParamsError: `channels` is something else, or there is no such device.
        StoreError: no such file, or no such network.
    """
    if channels not in (None, "rgb", "bgr"):
        raise ParamsError(f"channels is {channels!r}: rgb or bgr")
    if path.suffix.lower() == ".onnx":
        encoder = Encoder(path)
        swap = channels == "bgr"
        return Network(
            path,
            file_digest(path),
            channels or "rgb",
            encoder.device,
            lambda images: encoder.embed(images[..., ::-1] if swap else images),
        )
    backbone, card = load_backbone(path)
    order = channels or card.channels
    place = pick_device(device, "evaluate.device")
    return Network(path, file_digest(path), order, place, embedder(backbone.to(place), order))


def embedder(backbone: nn.Module, channels: str) -> Callable[[np.ndarray], np.ndarray]:
    """Images [b, h, w, 3] uint8 RGB -> raw embeddings [b, d] float32, by a network in evaluation mode."""
    device = next(backbone.parameters()).device

    @torch.inference_mode()
    def forward(images: np.ndarray) -> np.ndarray:
        return backbone(normalise(torch.from_numpy(images).to(device), channels)).float().cpu().numpy()

    def in_parts(images: np.ndarray) -> np.ndarray:
        parts = [images[begin : begin + PART] for begin in range(0, len(images), PART)]
        return np.concatenate(list(threads(cores())(lambda: forward, parts)))

    return in_parts if device.type == "cpu" else forward


@dataclass(frozen=True)
class Embeddings:
    """Raw embeddings [v, n, d] float32, and whether a face was found in each image [n] (True where none was sought)."""

    views: np.ndarray
    found: np.ndarray


def embed(
    network: Network, images: Images, *, flip: bool, align: Align | None, batch_size: int, bar: tqdm | None = None
) -> Embeddings:
    """Embed every image, and with `flip` its mirror image; from the cache where they are there.

    Args:
        network: the network.
        images: the images.
        flip: see them mirrored too.
        align: how a face is found in images that are neither aligned nor have landmarks; None crops their centre.
        batch_size: images at a time.
        bar: is moved on by the images.

    Raises:
        StoreError: an image that does not decode, landmarks far outside of their image, or an embedding that is not
            finite.
    """
    crop = crop_mode(images, align)
    detected = detection(align) if align and crop == "detection" else None
    of_network = (network.digest, network.channels, network.device)
    key = fingerprint(*of_network, images.digest, crop, detected, flip, code=CODE)
    with locked("evaluate", key):
        entry = find("evaluate", key)
        if entry is None:
            result = embed_now(network, images, flip, align, batch_size, bar)
            names = ("image", "mirror")[: len(result.views)]
            with adding("evaluate", key, "content.h5") as draft:
                write_shard(draft.path, {**dict(zip(names, result.views, strict=True)), "found": result.found})
            return result
    if bar is not None:
        bar.update(len(images))
    with Shard(entry.path) as shard:
        return Embeddings(np.stack([shard[name] for name in ("image", "mirror")[: 1 + flip]]), shard["found"])


def embed_now(
    network: Network, images: Images, flip: bool, align: Align | None, batch_size: int, bar: tqdm | None = None
) -> Embeddings:
    """The same, whatever the cache holds."""
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
    return Embeddings(np.stack([np.concatenate(outputs) for outputs in views_of]), np.concatenate(found_of))


def crop_mode(images: Images, align: Align | None) -> str:
    """How an image becomes 112 x 112: `given`, by `landmarks`, by `detection`, or the `centre`."""
    if images.aligned:
        return "given"
    if images.landmarks is not None:
        return "landmarks"
    return "detection" if align else "centre"


def load(images: Images, numbers: Sequence[int], align: Align | None) -> tuple[np.ndarray, np.ndarray]:
    """Decode and crop: [b, 112, 112, 3] uint8 RGB, and whether a face was found in each [b].

    An image in which none is found is cropped to its centre, so that every pair is measured.
    """
    crop = crop_mode(images, align)

    def decoded(number: int) -> np.ndarray:
        return decode(images.encoded(number), str(images.names[number]))

    def cropped(number: int) -> np.ndarray:
        image = decoded(number)
        if crop == "landmarks":
            return by_landmarks(images, image, number)
        if crop == "centre":
            return centre_crop(image)
        image = short_side(image, SIZE)
        if image.shape[:2] != (SIZE, SIZE):
            raise StoreError(f"{images.names[number]}: {image.shape[1]} x {image.shape[0]} px is not square")
        return image

    if align is None or crop != "detection":
        return np.stack(list(_threads().map(cropped, numbers))), np.ones(len(numbers), bool)
    few = [numbers[begin : begin + FEW] for begin in range(0, len(numbers), FEW)]
    faces = _detector(align)
    parts = list(threads(cores())(lambda: lambda some: align_images([*map(decoded, some)], faces), few))
    return np.concatenate([part.images for part in parts]), np.concatenate([part.found for part in parts])


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores())


_detector = cache(detector)


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
