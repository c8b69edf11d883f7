"""Restore face images with CodeFormer by the two paths of the official script (`inference_codeformer.py`).

    network = load_codeformer(Path("codeformer.pth")).to("cuda")
    images = apply(network, images, Restoration(w=0.5))

Aligned: an image is a face crop and is resized to the network's size. Unaligned: five points take the face to the
FFHQ template, and the restored face is pasted back into the image. The official script takes one image at a time; here
a batch is a batch, and an image depends on itself only. What the official script does beside this and this does not:
detecting the points (they are an argument), and masking the paste by a face-parsing network (its square mask is used).

Notation: n images, h x w pixels, s the network's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from stages.knobs import PRECISIONS, check
from stages.transfer.checkpoint import check_images, in_batches, to_images, to_network
from stages.transfer.codeformer.networks import CodeFormer
from stages.transfer.ffhq import points_of

# Eyes, nose and corners of the mouth: x, y in px of a 512 x 512 image (`face_restoration_helper.py`)
FFHQ_POINTS = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
BORDER = (132, 133, 135)  # RGB around an image that does not fill the template
LUMA = np.array([0.2989, 0.5870, 0.1140])  # RGB to gray
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
INTERPOLATIONS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "lanczos": cv2.INTER_LANCZOS4}


@dataclass(frozen=True)
class Restoration:
    """How images are restored; the defaults are the official script's."""

    w: float = 0.5  # fidelity, in [0, 1]: 0 trusts the codebook, 1 keeps the input's detail
    adain: bool = True  # codes take the channel statistics of the input's latents
    gray_threshold: float = 10.0  # mean variance of the channels' differences up to which an image is gray; < 0: never
    upscale: int = 2  # unaligned: of the image into which the face is pasted, which is at least s px
    size: int | None = None  # px, square, of the output; None: as it comes, s px or upscale times the image
    interpolation: str = "area"  # area | linear | lanczos: to `size`; the papers do not say
    precision: str = "fp32"  # fp32 | bf16 | fp16, of the network
    batch: int = 8  # images at a time on a GPU

    def __post_init__(self) -> None:
        check(0 <= self.w <= 1, f"codeformer.w is {self.w}: 0 to 1")
        check(self.upscale >= 1, f"codeformer.upscale is {self.upscale}: at least 1")
        check(self.size is None or self.size >= 1, f"codeformer.size is {self.size} px: at least 1, or none")
        check(self.batch >= 1, f"codeformer.batch is {self.batch}: at least 1")
        check(self.precision in PRECISIONS, f"codeformer.precision {self.precision!r}: one of {', '.join(PRECISIONS)}")
        kinds = ", ".join(INTERPOLATIONS)
        check(self.interpolation in INTERPOLATIONS, f"codeformer.interpolation {self.interpolation!r}: one of {kinds}")


def apply(
    network: CodeFormer, images: np.ndarray, settings: Restoration | None = None, points: np.ndarray | None = None
) -> np.ndarray:
    """Restore images.

    Args:
        network: in evaluation mode.
        images: [n, h, w, 3] uint8, RGB.
        settings: official by default.
        points: [n, 5, 2] px, the eyes, nose and corners of the mouth: the unaligned path; none: the aligned one.

    Returns:
        [n, size, size, 3] uint8, RGB. Without `size`: [n, s, s, 3] (aligned), or [n, H, W, 3], the images enlarged
        to a shorter side of s px or more, times `upscale`.

    Raises:
        ValueError: images or points of another shape or dtype, or points from which no similarity can be estimated.
    """
    settings = settings or Restoration()
    check_images(images)
    all_points = points_of(points, len(images))
    device = next(network.parameters()).device

    def some(images: np.ndarray, part: slice) -> np.ndarray:
        those = [each for each in all_points[part] if each is not None]
        if those:
            restored = restore_unaligned(network, images, np.stack(those), settings)
        else:
            restored = restore_aligned(network, images, settings)
        if settings.size is None:
            return restored
        kind, side = INTERPOLATIONS[settings.interpolation], (settings.size, settings.size)
        return np.stack([cv2.resize(image, side, interpolation=kind) for image in restored])

    return in_batches(some, images, settings.batch, device)


def restore_aligned(network: CodeFormer, images: np.ndarray, settings: Restoration) -> np.ndarray:
    """Face crops [n, h, w, 3] uint8 -> [n, s, s, 3] uint8."""
    faces = np.stack([_resize(image, network.size, network.size) for image in images])
    return _restore(network, faces, [is_gray(face, settings.gray_threshold) for face in faces], settings)


def restore_unaligned(network: CodeFormer, images: np.ndarray, points: np.ndarray, settings: Restoration) -> np.ndarray:
    """Images with one face each, [n, h, w, 3] uint8, and their points [n, 5, 2] -> [n, H, W, 3] uint8."""
    gray = [is_gray(image, settings.gray_threshold) for image in images]
    h, w = images.shape[1:3]
    factor = max(1.0, network.size / min(h, w))
    height, width = round(h * factor), round(w * factor)
    images = np.stack([_resize(image, width, height) for image in images])
    template = FFHQ_POINTS * network.size / 512
    matrices = [to_template((those + 0.5) * factor - 0.5, template) for those in points]
    side = (network.size, network.size)
    faces = np.stack(
        [
            cv2.warpAffine(image, matrix, side, borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER)
            for image, matrix in zip(images, matrices, strict=True)
        ]
    )
    restored = _restore(network, faces, gray, settings)
    return np.stack([paste(*each, settings.upscale) for each in zip(images, restored, matrices, strict=True)])


def to_template(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """[2, 3] similarity from points [5, 2] to the template's, by least median of squares as official.

    Raises:
        ValueError: there is none.
    """
    matrix = cv2.estimateAffinePartial2D(points, template, method=cv2.LMEDS)[0]
    if matrix is None:
        raise ValueError(f"no similarity takes the points {points.round(1).tolist()} to the FFHQ template")
    return matrix


def paste(image: np.ndarray, face: np.ndarray, matrix: np.ndarray, upscale: int) -> np.ndarray:
    """Put a restored face back, with a soft square edge (`paste_faces_to_input_image` without face parsing).

    Args:
        image: [h, w, 3] uint8, from which the face was warped.
        face: [s, s, 3] uint8.
        matrix: [2, 3] from the image to the face.
        upscale: of the image.

    Returns:
        [h * upscale, w * upscale, 3] uint8.
    """
    height, width = image.shape[0] * upscale, image.shape[1] * upscale
    background = _resize(image, width, height)
    inverse = np.asarray(cv2.invertAffineTransform(matrix), float) * upscale
    if upscale > 1:
        inverse[:, 2] += 0.5 * upscale
    warped = cv2.warpAffine(face, inverse, (width, height))
    mask = cv2.warpAffine(np.ones(face.shape[:2], np.float32), inverse, (width, height))
    mask = cv2.erode(mask, np.ones((2 * upscale, 2 * upscale), np.uint8))
    pasted = mask[..., None] * warped
    edge = int(mask.sum() ** 0.5) // 20
    if edge:
        mask = cv2.erode(mask, np.ones((2 * edge, 2 * edge), np.uint8))
        mask = cv2.GaussianBlur(mask, (2 * edge + 1, 2 * edge + 1), 0)
    soft = mask[..., None]
    return (soft * pasted + (1 - soft) * background).astype(np.uint8)


def is_gray(image: np.ndarray, threshold: float) -> bool:
    """Whether the differences between channels vary by at most the threshold: [h, w, 3] uint8 (`facelib` misc)."""
    channels = image.astype(np.int16)
    return bool((channels - np.roll(channels, 1, 2)).reshape(-1, 3).var(0).mean() <= threshold)


def match_colour(content: np.ndarray, style: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Content [h, w, 3] with the style's mean and deviation in each channel, float64 (`adain_npy`)."""
    flat, like = content.reshape(-1, 3).astype(float), style.reshape(-1, 3).astype(float)
    scale = np.sqrt((like.var(0) + eps) / (flat.var(0) + eps))
    return ((flat - flat.mean(0)) * scale + like.mean(0)).reshape(content.shape)


@torch.inference_mode()
def _restore(network: CodeFormer, faces: np.ndarray, gray: list[bool], settings: Restoration) -> np.ndarray:
    dtype = DTYPES[settings.precision]
    inputs = to_network(faces, network)
    with torch.autocast(inputs.device.type, dtype, enabled=dtype != torch.float32):
        outputs = network(inputs, settings.w, settings.adain)[0]
    restored = to_images(outputs)
    for number in np.flatnonzero(gray):
        luma = np.repeat((restored[number] @ LUMA)[..., None], 3, 2)
        restored[number] = match_colour(luma, faces[number]).round().clip(0, 255).astype(np.uint8)
    return restored


def _resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
