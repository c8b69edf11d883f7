"""MTCNN: boxes and five landmarks of the faces in a batch of images.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks" (2016): P-Net
proposes square boxes at every level of an image pyramid, R-Net and O-Net look at the crops again and refine them. The
arithmetic is facenet-pytorch's (`models/utils/detect_face.py`), which detects one image at a time or a batch of one
size; here images of one size are a batch, a pyramid's level goes through P-Net in bands of rows and the crops in
batches, so that memory does not grow with a photograph. Both resize by area: sums of 8-bit values, which are exact.

The weights are the original ones (`mtcnn.safetensors`, `mtcnn.LICENSE`). The modules bear the names of AdaFace's port
(`face_alignment/mtcnn_pytorch/src/get_nets.py`), whose checkpoints load as they are.

Notation: b images of h x w pixels, n boxes (x1, y1, x2, y2) in pixels of the image, RGB.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_name("mtcnn.safetensors")
CELL, STRIDE = 12, 2  # px: P-Net's receptive field, and how far apart its outputs are
AT_ONCE = {  # pixels in a batch; of a level, and images, through P-Net; crops through R- and O-Net: on a CPU, its cache
    "cpu": {"pixels": 600_000, "level": 1 << 20, "pnet": 8, "rnet": 32, "onet": 8},
    "cuda": {"pixels": 1 << 25, "level": 1 << 24, "pnet": 128, "rnet": 4096, "onet": 1024},
}
CHUNK = 16  # passes whose crops are made together


@dataclass(frozen=True)
class Detections:
    """The faces of one image, the largest box first.

    boxes: [k, 4] float32, x1, y1, x2, y2 in px; scores: [k] float32, O-Net's probability; landmarks: [k, 5, 2]
    float32, x and y in px of the left eye, right eye, nose, left and right corner of the mouth (as seen).
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


class _Flatten(nn.Module):
    """[n, c, h, w] -> [n, w h c]: the order of the Caffe (MATLAB) original's dense layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 3).flatten(1)


class _PReLU(nn.PReLU):
    """PReLU over whole rows of a channels-last map: torch's own takes a handful of channels at a time."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n * h, w * c)
        return F.prelu(rows, self.weight.repeat(w)).view(n, h, w, c).permute(0, 3, 1, 2)


class _MaxPool(nn.Module):
    """Max pooling of stride 2 in ceil mode, one axis after the other: much faster than torch's on few channels."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        for _ in ("rows", "columns"):
            outputs = (x.shape[2] - self.kernel + 1) // 2 + 1
            first, *others = (x[:, :, k::2][:, :, :outputs] for k in range(self.kernel))
            most = first.clone()
            for other in others:
                part = most[:, :, : other.shape[2]]  # the last window may reach beyond the border
                torch.maximum(part, other, out=part)
            x = most.transpose(2, 3)
        return x


def _convolution(number: int, inputs: int, outputs: int, kernel: int = 3) -> dict[str, nn.Module]:
    return {f"conv{number}": nn.Conv2d(inputs, outputs, kernel), f"prelu{number}": _PReLU(outputs)}


def _dense(number: int, inputs: int, outputs: int) -> dict[str, nn.Module]:
    return {"flatten": _Flatten(), f"conv{number}": nn.Linear(inputs, outputs), f"prelu{number}": nn.PReLU(outputs)}


def _pool(number: int, kernel: int) -> dict[str, nn.Module]:
    return {f"pool{number}": _MaxPool(kernel)}


def _probability(x: Tensor) -> Tensor:
    """Softmax's second class; by way of float64, as float32's exp depends in its last bit on the place in the batch."""
    e = (x - x.amax(1, keepdim=True)).double().exp().float()
    return e[:, 1] / (e[:, 0] + e[:, 1])


class PNet(nn.Module):
    """[n, 3, h, w] in [-1, 1] -> face probability [n, h', w'] and box offsets [n, 4, h', w'], h' about h / 2 - 5."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(_convolution(1, 3, 10) | _pool(1, 2) | _convolution(2, 10, 16) | _convolution(3, 16, 32))
        )
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probability and offsets of every cell."""
        x = self.features(x)
        return _probability(self.conv4_1(x)), self.conv4_2(x)


class RNet(nn.Module):
    """[n, 3, 24, 24] in [-1, 1] -> face probability [n] and box offsets [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                _convolution(1, 3, 28)
                | _pool(1, 3)
                | _convolution(2, 28, 48)
                | _pool(2, 3)
                | _convolution(3, 48, 64, 2)
                | _dense(4, 576, 128)
            )
        )
        self.conv5_1 = nn.Linear(128, 2)
        self.conv5_2 = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probability and offsets of every crop."""
        x = self.features(x)
        return _probability(self.conv5_1(x)), self.conv5_2(x)


class ONet(nn.Module):
    """[n, 3, 48, 48] in [-1, 1] -> face probability [n], box offsets [n, 4], landmarks [n, 10] (five x, five y)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                _convolution(1, 3, 32)
                | _pool(1, 3)
                | _convolution(2, 32, 64)
                | _pool(2, 3)
                | _convolution(3, 64, 64)
                | _pool(3, 2)
                | _convolution(4, 64, 128, 2)
                | _dense(5, 1152, 256)
            )
        )
        self.conv6_1 = nn.Linear(256, 2)
        self.conv6_2 = nn.Linear(256, 4)
        self.conv6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability, offsets and landmarks (as fractions of the crop) of every crop."""
        x = self.features(x)
        return _probability(self.conv6_1(x)), self.conv6_2(x), self.conv6_3(x)


def load_official(net: nn.Module, name: str) -> None:
    """Fill a net with the original weights of `pnet`, `rnet` or `onet`."""
    prefix = f"{name}."
    weights = load_file(WEIGHTS)
    net.load_state_dict({key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)})


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, *, inclusive: bool = False) -> Tensor:
    """Non-maximum suppression within each group: from the best box on, what overlaps a kept one too much goes.

    Args:
        boxes: [n, 4] float32.
        scores: [n] float32; of equal ones the first box comes first.
        groups: [n] int64, any labels.
        threshold: overlap above which the lower of two boxes goes.
        inclusive: pixel-inclusive areas, and the overlap is over the smaller area instead of the union: O-Net's.

    Returns:
        [m] int64, the kept indices, by group and falling score.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    kept = _keep(boxes[order].cpu().numpy(), groups[order].cpu().numpy(), threshold, inclusive)
    return order[torch.from_numpy(kept).to(order.device)]


@numba.njit(cache=True)
def _keep(boxes: np.ndarray, groups: np.ndarray, threshold: float, inclusive: bool) -> np.ndarray:
    margin, nothing = np.float32(inclusive), np.float32(0)
    areas = (boxes[:, 2] - boxes[:, 0] + margin) * (boxes[:, 3] - boxes[:, 1] + margin)
    kept = np.ones(len(boxes), np.bool_)
    for i in range(len(boxes)):
        j = i + 1
        while kept[i] and j < len(boxes) and groups[j] == groups[i]:
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]) + margin
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]) + margin
            common = max(w, nothing) * max(h, nothing)
            whole = min(areas[i], areas[j]) if inclusive else areas[i] + areas[j] - common
            kept[j] = kept[j] and common / whole <= threshold
            j += 1
    return kept


def level(images: np.ndarray, height: int, width: int, rows: range) -> Tensor:
    """Rows of all images [b, h, w, 3] resized to height x width: [b, 3, len(rows), width], as the networks take it."""
    b, h, w, _ = images.shape
    begin, end = np.zeros((b, 2), np.int64), np.tile([w, h], (b, 1))
    return _network_input(_windows(images, np.arange(b), begin, end, height, width, rows.start, rows.stop))


def crops(images: np.ndarray, image: np.ndarray, begin: np.ndarray, end: np.ndarray, size: int) -> Tensor:
    """Windows `begin` to `end` ([n, 2] int64, x and y, end exclusive) of images [n]: [n, 3, size, size] float32."""
    return _network_input(_windows(images, image, begin, end, size, size, 0, size))


def _network_input(means: np.ndarray) -> Tensor:
    means -= np.float32(127.5)
    means *= np.float32(0.0078125)
    return torch.from_numpy(means).permute(0, 3, 1, 2)


@numba.njit(cache=True, nogil=True)
def _windows(
    images: np.ndarray,
    image: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    height: int,
    width: int,
    first: int,
    last: int,
) -> np.ndarray:
    """Means over adaptive pooling's height x width windows of [begin, end), rows first to last - 1.

    Equal to `interpolate(mode="area")`, but summed exactly: [n, last - first, width, 3] float32.
    """
    b, h, w, _ = images.shape
    lines = images.reshape(b, h, 3 * w)
    means = np.empty((len(image), last - first, width, 3), np.float32)
    sums, edges = np.empty(3 * w, np.uint32), np.empty((width, 2), np.int64)
    for n in range(len(image)):
        (left, top), (w, h) = begin[n], end[n] - begin[n]
        for j in range(width):
            edges[j, 0], edges[j, 1] = j * w // width, -(-(j + 1) * w // width)
        for i in range(first, last):
            y0, y1 = top + i * h // height, top - (-(i + 1) * h // height)
            sums[: 3 * w] = 0
            for y in range(y0, y1):
                line = lines[image[n], y, 3 * left : 3 * (left + w)]
                for k in range(3 * w):
                    sums[k] += line[k]
            for j in range(width):
                x0, x1 = edges[j]
                area = np.float32((y1 - y0) * (x1 - x0))
                red = green = blue = np.uint32(0)
                for k in range(3 * x0, 3 * x1, 3):
                    red, green, blue = red + sums[k], green + sums[k + 1], blue + sums[k + 2]
                mean = means[n, i - first, j]
                mean[0], mean[1], mean[2] = np.float32(red) / area, np.float32(green) / area, np.float32(blue) / area
    return means


def _refined(boxes: Tensor, offsets: Tensor, margin: float) -> Tensor:
    """Boxes moved by the networks' offsets, which are fractions of their sides."""
    sides = boxes[:, 2:] - boxes[:, :2] + margin
    return boxes + offsets * sides.repeat(1, 2)


def _squared(boxes: Tensor) -> Tensor:
    """The squares of the longer side about the boxes' centres."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.amax(1, keepdim=True)
    corner = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return torch.cat([corner, corner + longer], 1)


class MTCNN:
    """The detector; defaults are facenet-pytorch's.

    Args:
        thresholds: least probability of P-, R- and O-Net.
        factor: of the image pyramid, in (0, 1).
        min_face: smallest face in px.
        device: `cpu` or `cuda`, of torch.
    """

    def __init__(
        self,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
        min_face: int = 20,
        device: str | torch.device = "cpu",
    ) -> None:
        self.thresholds, self.factor, self.min_face, self.device = thresholds, factor, min_face, torch.device(device)
        self.at_once = AT_ONCE[self.device.type]
        self.pnet, self.rnet, self.onet = PNet(), RNet(), ONet()
        for name, net in (("pnet", self.pnet), ("rnet", self.rnet), ("onet", self.onet)):
            load_official(net, name)
            net.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)

    def scales(self, height: int, width: int) -> list[float]:
        """Of the pyramid: from `min_face` px to the receptive field, down to the last level that P-Net fits in."""
        scale, scales = CELL / self.min_face, []
        side = min(height, width) * scale
        while side >= CELL:
            scales.append(scale)
            scale, side = scale * self.factor, side * self.factor
        return scales

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Find the faces of images of any sizes; those of one size go through the networks together.

        Args:
            images: [h, w, 3] uint8 RGB each.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(image.shape, []).append(index)
        found: dict[int, Detections] = {}
        for (h, w, _), indices in groups.items():
            at_once = self._images(h, w, max(self.scales(h, w), default=0))
            step = at_once * max(1, self.at_once["pixels"] // (h * w * at_once))
            for part in (indices[i : i + step] for i in range(0, len(indices), step)):
                found.update(zip(part, self._detect(np.stack([images[i] for i in part])), strict=True))
        return [found[index] for index in range(len(images))]

    def _images(self, h: int, w: int, scale: float) -> int:
        """How many images of h x w px go through P-Net together at this scale."""
        return max(1, min(self.at_once["pnet"], int(self.at_once["level"] / (h * scale + 1) / (w * scale + 1))))

    def _detect(self, images: np.ndarray) -> list[Detections]:
        boxes, image = self._propose(images)
        boxes, image = self._refine(images, boxes, image)
        boxes, scores, landmarks, image = self._output(images, boxes, image)

        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        order = sizes.argsort(descending=True, stable=True)
        order = order[image[order].argsort(stable=True)]
        counts = image.bincount(minlength=len(images)).tolist()
        columns = [column[order].cpu().split(counts) for column in (boxes, scores, landmarks)]
        return [Detections(*(column.numpy() for column in row)) for row in zip(*columns, strict=True)]

    def _propose(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """P-Net on every level: square boxes [n, 4] and the images [n] they lie in."""
        b, h, w, _ = images.shape
        bands = []
        for number, scale in enumerate(self.scales(h, w)):
            height, width, n = int(h * scale + 1), int(w * scale + 1), self._images(h, w, scale)
            rows = -(-height // STRIDE) - 5  # of P-Net's output
            step = max(1, (self.at_once["level"] // width - CELL) // STRIDE + 1)
            for top in range(0, rows, step):
                end = min(height, STRIDE * (top + step - 1) + CELL)
                band = level(images, height, width, range(STRIDE * top, end))
                scores, offsets = self._through("pnet", band.split(n), n, b)
                image, row, column = (scores >= self.thresholds[0]).nonzero(as_tuple=True)
                corner = STRIDE * torch.stack([column, top + row], 1).float() + 1
                boxes = torch.cat([(corner / scale).floor(), ((corner + CELL - 1) / scale).floor()], 1)
                at = torch.full_like(image, number)
                bands.append((boxes, offsets[image, :, row, column], scores[image, row, column], image, at))
        if not bands:  # smaller than min_face
            return torch.zeros(0, 4, device=self.device), torch.zeros(0, dtype=torch.int64, device=self.device)
        boxes, offsets, scores, image, at = map(torch.cat, zip(*bands, strict=True))
        kept = suppress(boxes, scores, image * (number + 1) + at, 0.5).sort().values
        boxes, offsets, scores, image = boxes[kept], offsets[kept], scores[kept], image[kept]
        kept = suppress(boxes, scores, image, 0.7)
        return _squared(_refined(boxes[kept], offsets[kept], 0)), image[kept]

    def _refine(self, images: np.ndarray, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """R-Net on the proposals: fewer and better squares."""
        boxes, image, (scores, offsets) = self._look("rnet", images, boxes, image, 24)
        face = scores > self.thresholds[1]
        boxes, image, scores, offsets = boxes[face], image[face], scores[face], offsets[face]
        kept = suppress(boxes, scores, image, 0.7)
        return _squared(_refined(boxes[kept], offsets[kept], 1)), image[kept]

    def _output(self, images: np.ndarray, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """O-Net on what is left: boxes [k, 4], scores [k], landmarks [k, 5, 2], images [k]."""
        boxes, image, (scores, offsets, points) = self._look("onet", images, boxes, image, 48)
        face = (scores > self.thresholds[2]).nonzero()[:, 0].flip(0)  # of equal scores facenet-pytorch keeps the last
        boxes, image, scores, offsets, points = boxes[face], image[face], scores[face], offsets[face], points[face]
        sides = (boxes[:, 2:] - boxes[:, :2] + 1)[:, None]
        landmarks = points.unflatten(1, (2, 5)).transpose(1, 2) * sides + boxes[:, None, :2] - 1
        boxes = _refined(boxes, offsets, 1)
        kept = suppress(boxes, scores, image, 0.7, inclusive=True)
        return boxes[kept], scores[kept], landmarks[kept], image[kept]

    def _look(
        self, name: str, images: np.ndarray, boxes: Tensor, image: Tensor, size: int
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run a network on the boxes' crops; boxes are 1-based, and one with nothing inside the image is dropped."""
        limit = torch.tensor(images.shape[2:0:-1], device=self.device)
        begin = boxes[:, :2].trunc().long().clamp(min=1) - 1
        end = boxes[:, 2:].trunc().long().minimum(limit)
        inside = (begin < end).all(1)
        boxes, image = boxes[inside], image[inside]
        of, first, last = (column.cpu().numpy() for column in (image, begin[inside], end[inside]))
        n = self.at_once[name]
        some = (slice(i, i + CHUNK * n) for i in range(0, max(1, len(of)), CHUNK * n))
        parts = (part for rows in some for part in crops(images, of[rows], first[rows], last[rows], size).split(n))
        return boxes, image, self._through(name, parts, n, len(of))

    def _through(self, name: str, parts: Iterable[Tensor], n: int, count: int) -> list[Tensor]:
        """A network's outputs of `count` inputs, given in parts of n.

        The last part is filled up: a convolution of another batch size may sum otherwise.
        """
        net, outputs = getattr(self, name), []
        for part in parts:
            if len(part) < n:
                part = F.pad(part, (0, 0, 0, 0, 0, 0, 0, n - len(part)))
            outputs.append(net(part.to(self.device)))
        return [torch.cat(column)[:count] for column in zip(*outputs, strict=True)]
