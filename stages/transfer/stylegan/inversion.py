"""Look for face images in what a StyleGAN2 can paint, and paint what is found.

    model = load_inverter(Path("e4e_ffhq_encode.pt")).to("cuda")
    images = apply(model, images, Inversion("e4e"), points)

A generator of photographs paints nothing but photographs: what it makes of a rendered face is the method. The styles
come from an encoder (`psp`, `e4e`), from optimisation, or from an encoder and then some steps of it (`hybrid`).

Given five points, a face is cut out as FFHQ was (`stages.transfer.ffhq`), and what the generator paints is put back.

Notation: n images, h x w pixels, s a network's size, L styles of d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.knobs import check
from stages.transfer.checkpoint import check_images, in_batches, to_images, to_network
from stages.transfer.ffhq import cut, points_of, put_back, resize
from stages.transfer.stylegan.encoders import E4EEncoder, PSPEncoder
from stages.transfer.stylegan.files import Inverter
from stages.transfer.stylegan.projector import Perceptual, Projection, project

OPTIMISED = ("optimisation", "hybrid")
INVERSIONS = ("psp", "e4e", *OPTIMISED)


@dataclass(frozen=True)
class Inversion:
    """How images are inverted; the defaults are the official scripts'."""

    inversion: str = "e4e"  # psp | e4e | optimisation | hybrid
    projection: Projection = field(default_factory=Projection)  # of optimisation and hybrid; hybrid is in w+
    face: int = 256  # px, of what is painted: the official `face_pool`; at most the generator's size
    size: int | None = None  # px, square, of the output; None: as it comes, as painted or the image with its face
    batch: int = 8  # images at a time on a GPU

    def __post_init__(self) -> None:
        check(self.inversion in INVERSIONS, f"stylegan.inversion {self.inversion!r}: one of {', '.join(INVERSIONS)}")
        check(self.face >= 1, f"stylegan.face is {self.face} px: at least 1")
        check(self.size is None or self.size >= 1, f"stylegan.size is {self.size} px: at least 1, or none")
        check(self.batch >= 1, f"stylegan.batch is {self.batch}: at least 1")
        in_w_plus = self.inversion != "hybrid" or self.projection.space == "w+"
        check(in_w_plus, "projection.space is 'w': a hybrid inversion starts from an encoder's styles, which are in w+")


def apply(
    model: Inverter,
    images: np.ndarray,
    settings: Inversion | None = None,
    points: np.ndarray | None = None,
    perceptual: Perceptual | None = None,
    seeds: Sequence[int] | None = None,
) -> np.ndarray:
    """Invert images and paint them again.

    Args:
        model: networks in evaluation mode.
        images: [n, h, w, 3] uint8, RGB.
        settings: official by default.
        points: [n, 5, 2] px, the eyes, nose and corners of the mouth; none: the images are cut as FFHQ is.
        perceptual: of optimisation and hybrid.
        seeds: n, of the noise of optimisation and hybrid.

    Returns:
        [n, size, size, 3] uint8, RGB. Without `size`: [n, h, w, 3] with points, else of the size painted.

    Raises:
        ValueError: images or points of another shape, an inversion for which the model has no encoder, or no
            perceptual network for one that needs it.
    """
    settings = settings or Inversion()
    check_images(images)
    all_points = points_of(points, len(images))
    if seeds is not None and len(seeds) != len(images):
        raise ValueError(f"{len(seeds)} seeds for {len(images)} images: one each was expected")
    check_model(model, settings, perceptual)
    device = next(model.generator.parameters()).device

    def some(images: np.ndarray, part: slice) -> np.ndarray:
        those = all_points[part]
        sides = {model.generator.size} | ({model.encoder.size} if model.encoder is not None else set())
        faces = {side: np.stack([cut(*each, side) for each in zip(images, those, strict=True)]) for side in sides}
        painted = _invert(model, faces, settings, perceptual, None if seeds is None else seeds[part])
        if points is not None:
            painted = np.stack([put_back(*each) for each in zip(images, those, painted, strict=True)])
        return painted if settings.size is None else np.stack([resize(image, settings.size) for image in painted])

    return in_batches(some, images, settings.batch, device)


def encode(model: Inverter, images: Tensor) -> Tensor:
    """Styles [n, L, d] of images [n, 3, s, s] in [-1, 1], s the encoder's size."""
    assert model.encoder is not None
    styles = model.encoder(images)
    if model.from_mean:
        assert model.mean is not None
        styles = styles + model.mean
    return styles


def _invert(
    model: Inverter,
    faces: dict[int, np.ndarray],
    settings: Inversion,
    perceptual: Perceptual | None,
    seeds: Sequence[int] | None,
) -> np.ndarray:
    with torch.no_grad():
        styles = noise = None
        if settings.inversion != "optimisation":
            assert model.encoder is not None
            styles = encode(model, to_network(faces[model.encoder.size], model.encoder))
        if settings.inversion in OPTIMISED:
            assert perceptual is not None
            targets = to_network(faces[model.generator.size], model.generator)
            styles, noise = project(
                model.generator, targets, perceptual, settings.projection, seeds, styles, model.statistics
            )
        assert styles is not None
        painted = model.generator.synthesis(styles, noise)
        return to_images(F.adaptive_avg_pool2d(painted, min(settings.face, painted.shape[2])), truncate=True)


def check_model(model: Inverter, settings: Inversion, perceptual: Perceptual | None) -> None:
    """Refuse a model that cannot invert in this way.

    Raises:
        ValueError: with the inversion, and what it needs.
    """
    kinds = {"psp": PSPEncoder, "e4e": E4EEncoder}
    kind = settings.inversion
    if kind in kinds and not isinstance(model.encoder, kinds[kind]):
        raise ValueError(f"inversion {kind!r}: the model's encoder is {type(model.encoder).__name__}")
    if kind == "hybrid" and model.encoder is None:
        raise ValueError("inversion 'hybrid': the model has no encoder")
    if kind in OPTIMISED and perceptual is None:
        raise ValueError(f"inversion {kind!r} needs a perceptual network")
    if model.encoder is not None and model.from_mean and model.mean is None:
        raise ValueError("the encoder's styles are relative to a mean that the model does not have")
