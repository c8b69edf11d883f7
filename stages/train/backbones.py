"""Backbones as files: ours, with a card that says what it is, and the official ones, known by their names.

| file | whose | holds |
|---|---|---|
| `.safetensors` with a card | `r2r train` | the state_dict and a `Card` |
| `.safetensors` without one | anyone's | a state_dict |
| `.ckpt` | AdaFace (Lightning) | `state_dict`, the network under `model.` beside `head.` |
| `.pt`, `.pth` | insightface | a state_dict; `checkpoint_gpu_0.pt` has it as `state_dict_backbone` |
| `.pt` | CVLface | a state_dict under `net.` |
| `.pth.tar` | SynFace | `state_dict`, beside the head as `classifier` |

A prefix that all of a network's names share, whatever it is, and `num_batches_tracked`, which counts batches that no
evaluation asks for, carry no information. All else must be there, no more and no less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.store import StoreError, replacing
from stages.train.networks import BACKBONES, SIZE, Backbone, create_backbone, create_on_meta, normalise
from stages.training.tensors import read_tensors

__all__ = [
    "BACKBONES",
    "SIZE",
    "Backbone",
    "Card",
    "Found",
    "create_backbone",
    "create_on_meta",
    "find_networks",
    "load_backbone",
    "normalise",
    "save_backbone",
]

FIRST = ("input_layer.0.weight", "conv1.weight", "layers.0.layers.0.weight")  # the first tensors of AdaFace's, ...
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Card:
    """What a checkpoint is."""

    backbone: str  # a name of BACKBONES
    embedding: int  # d
    channels: str = "rgb"  # rgb | bgr: the order the network was trained on
    size: int = SIZE  # px, square
    identities: int | None = None  # it was trained on; None where the file does not say
    images: int | None = None
    head: str | None = None
    fingerprint: str | None = None  # of the training run


@dataclass(frozen=True)
class Found:
    """A network in a checkpoint.

    backbone: a name of BACKBONES; state: under the official names; where: its key and prefix in the file.
    """

    backbone: str
    state: dict[str, Tensor]
    where: str

    @property
    def card(self) -> Card:
        """What the layout says: AdaFace's networks see BGR and insightface's RGB; CVLface trains AdaFace's on RGB."""
        network = create_on_meta(self.backbone)
        rgb = self.where.endswith("net.")
        return Card(self.backbone, network.embedding, channels="rgb" if rgb else network.channels)


def save_backbone(path: Path, network: nn.Module, card: Card) -> None:
    """Write `backbone.safetensors`: the state_dict, and the card as JSON; equal weights give equal bytes."""
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as partial:  # one metadata key, since safetensors does not keep the order of several
        save_file(state, partial, metadata={"card": json.dumps(asdict(card), sort_keys=True)})


def load_backbone(path: Path) -> tuple[Backbone, Card]:
    """Read a checkpoint in one of the forms above.

    Returns:
        The network in evaluation mode on the CPU, and its card.

    Raises:
        StoreError: no such file, a broken one, one that would run code when read, not one of `BACKBONES`, of two
            networks, or with a weight that is not finite.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such checkpoint")
    content, card = _read_safetensors(path) if path.suffix == ".safetensors" else (read_tensors(path), None)
    if card is None:
        found = _the_one(path, content)
        state, card = found.state, found.card
    else:
        state = content
    network = create_backbone(card.backbone)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise StoreError(f"{path}: not the weights of {card.backbone} ({error})") from error
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise StoreError(f"{path}: {name} holds numbers that are not finite: a training that diverged")
    return network.eval(), card


def find_networks(content: Any, where: str = "") -> list[Found]:
    """The backbones that a checkpoint's content holds, at any key and under any prefix."""
    if not isinstance(content, Mapping):
        return []
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    found = [
        Found(backbone, _counted(backbone, state), f"{where} {prefix}".strip())
        for prefix, state in _parts(tensors)
        if (backbone := _recognise(state))
    ]
    for key, value in content.items():
        found += find_networks(value, f"{where}.{key}" if where else str(key))
    return found


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Card | None]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path}: not a readable safetensors file ({error})") from error
    if "card" not in metadata:
        return state, None
    known = {field.name for field in fields(Card)}
    try:
        card = Card(**{name: value for name, value in json.loads(metadata["card"]).items() if name in known})
    except (AttributeError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: its model card is broken ({error})") from error
    if card.backbone not in BACKBONES or card.channels not in ("rgb", "bgr"):
        raise StoreError(
            f"{path}: a {card.backbone!r} that sees {card.channels!r}; known are {', '.join(BACKBONES)}, and rgb or bgr"
        )
    return state, card


def _the_one(path: Path, content: Any) -> Found:
    found = find_networks(content)
    if len(found) > 1:
        places = ", ".join(f"{one.backbone} ({one.where})" for one in found)
        raise StoreError(f"{path}: holds several networks, {places}; save the one that is meant")
    if found:
        return found[0]
    states = [state for state in _states(content) if state]
    if not states:
        raise StoreError(f"{path}: holds no state_dict")
    largest = max((part for state in states for _, part in [("", state), *_parts(state)]), key=_overlap)
    nearest = max(BACKBONES, key=lambda name: len(_layout(name) & largest.keys()) / len(_layout(name) | largest.keys()))
    lacks, more = sorted(_layout(nearest) - largest.keys()), sorted(_uncounted(largest) - _layout(nearest))
    differences = [
        f"{what} {', '.join(names[:3])} ({len(names)})" for what, names in (("lacks", lacks), ("has", more)) if names
    ]
    raise StoreError(
        f"{path}: {len(largest)} entries ({', '.join(sorted(largest)[:3])}, …) are the weights of none of "
        f"{', '.join(BACKBONES)}; of {nearest}, the nearest, it {' and '.join(differences)}"
    )


def _states(content: Any) -> Iterator[dict[str, Tensor]]:
    if isinstance(content, Mapping):
        yield {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
        for value in content.values():
            yield from _states(value)


def _parts(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each prefix under which there is a first tensor of a network, and all that stands under it."""
    for prefix in sorted({name.removesuffix(first) for first in FIRST for name in tensors if name.endswith(first)}):
        if not prefix or prefix.endswith("."):
            yield prefix, {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}


@cache
def _layout(backbone: str) -> frozenset[str]:
    """The names of a network's tensors that carry information."""
    return frozenset(_uncounted(create_on_meta(backbone).state_dict()))


def _uncounted(names: Mapping[str, Tensor]) -> set[str]:
    return {name for name in names if not name.endswith(COUNTER)}


def _recognise(state: dict[str, Tensor]) -> str | None:
    names = _uncounted(state)
    return next((backbone for backbone in BACKBONES if _layout(backbone) == names), None)


def _overlap(state: dict[str, Tensor]) -> int:
    return max(len(_layout(backbone) & state.keys()) for backbone in BACKBONES)


def _counted(backbone: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with the counters that it lacks."""
    counters = {name for name in create_on_meta(backbone).state_dict() if name.endswith(COUNTER)}
    return state | {name: torch.zeros((), dtype=torch.int64) for name in counters - state.keys()}
