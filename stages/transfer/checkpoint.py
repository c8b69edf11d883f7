"""What the image-to-image methods share: checkpoints read without running them, pixels in and out of a network.

Notation: n images, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.store import StoreError


def file_of(path: Path, suffix: str) -> Path:
    """The file that a knob means: itself, or the only one of that suffix in the folder that it names.

    Raises:
        StoreError: the folder has none, or several.
    """
    if not path.is_dir():
        return path
    found = sorted(file.name for file in path.glob(f"*{suffix}"))
    if len(found) != 1:
        raise StoreError(f"{path}: one file *{suffix} was expected, but there is {', '.join(found) or 'none'}")
    return path / found[0]


def entry(path: Path, content: Any, *keys: str) -> dict[str, Tensor]:
    """The state_dict under the first of the keys that the file has.

    Raises:
        StoreError: it has none of them, or what stands there is no state_dict.
    """
    if isinstance(content, Mapping):
        for key in keys:
            state = content.get(key)
            if isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values()):
                return dict(state)
    has = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
    raise StoreError(f"{path}: no state_dict under {' or '.join(map(repr, keys))}; the file holds {has or 'nothing'}")


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put a state_dict into a network that has exactly its names and shapes.

    Raises:
        StoreError: names the file, the network, and the first missing, unexpected and ill-shaped entries.
    """
    own = network.state_dict()
    wrong = [
        *_some("missing", [name for name in own if name not in state]),
        *_some("unexpected", [name for name in state if name not in own]),
        *_some(
            "of another shape",
            [
                f"{name} {list(state[name].shape)} for {list(own[name].shape)}"
                for name in own
                if name in state and state[name].shape != own[name].shape
            ],
        ),
    ]
    if wrong:
        raise StoreError(f"{path}: not the weights of {type(network).__name__}: {'; '.join(wrong)}")
    network.load_state_dict(state)


def _some(what: str, names: list[str], limit: int = 3) -> list[str]:
    return [f"{len(names)} {what} ({', '.join(names[:limit])}{', …' * (len(names) > limit)})"] if names else []


def to_network(images: np.ndarray, network: nn.Module) -> Tensor:
    """[n, h, w, 3] uint8 RGB -> [n, 3, h, w] in [-1, 1], on the network's device and in its precision."""
    weight = next(network.parameters())
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return pixels.to(weight.device, torch.float32).div(255).sub(0.5).div(0.5).to(weight.dtype)


def to_images(pixels: Tensor, truncate: bool = False) -> np.ndarray:
    """[n, 3, h, w] in [-1, 1], clipped -> [n, h, w, 3] uint8 RGB, rounded; or cut off, as NVIDIA's code does."""
    scaled = pixels.float().clamp(-1, 1).add(1).div(2).mul(255)
    scaled = scaled if truncate else scaled.round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def in_batches(
    function: Callable[[np.ndarray, slice], np.ndarray], images: np.ndarray, batch: int, device: torch.device
) -> np.ndarray:
    """Run over images [n, h, w, 3], `batch` at a time.

    On the CPU they run one by one: the libraries there choose their kernels by the batch's size, and the last bits of
    an image would depend on how many stand beside it.

    Args:
        function: maps images and their place among the n to images.
    """
    if not len(images):
        raise ValueError("no images")
    step = 1 if device.type == "cpu" else batch
    parts = [slice(start, min(start + step, len(images))) for start in range(0, len(images), step)]
    return np.concatenate([function(images[part], part) for part in parts])


def check_images(images: np.ndarray) -> None:
    """Refuse what are not images.

    Raises:
        ValueError: with the shape and dtype, and what was expected.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images {list(images.shape)} {images.dtype}: [n, h, w, 3] uint8 RGB was expected")
