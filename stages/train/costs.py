"""What training takes of a machine, about: time, and a GPU's memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.images import read_faces
from stages.run.machine import Machine, Work

if TYPE_CHECKING:
    import torch

    from stages.params import Params

STEP = 3  # operations of a training step over those of a forward pass


def cost(params: Params, root: Path, machine: Machine) -> Work:
    """About how long training takes."""
    train, images = params.train, round(shown(params, root))
    work = STEP * images * train.epochs * flops(train.backbone)
    return Work(machine.seconds(work, train.device, train.precision), f"{train.epochs} epochs of {images:,} images")


def shown(params: Params, root: Path) -> float:
    """About how many images an epoch shows; of a set that is not there yet, as many as are to be made."""
    train, real = params.train, params.real
    first, second, third = train.weights
    sets = [(train.second, second, 0), (train.third, third, 0), (real.data, real.weight, real.n_ids)]
    named = [(train.data, first, 0)]
    named += [one for one in sets[: 2 + bool(real.n_ids)] if one[0] not in ("", train.data)]
    total = 0.0
    for path, weight, n_ids in named:
        faces = read_faces(root / path) if path != "data/align" and (root / path).exists() else None
        if faces:
            total += weight * (faces.identity <= faces.identities[: n_ids or None][-1]).sum()
        else:
            total += weight * params.n_ids * params.images_per_id
    return total


def flops(backbone: str) -> float:
    """Floating-point operations of an image's embedding."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from stages.train.networks import SIZE, create_on_meta

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        create_on_meta(backbone).eval()(torch.empty(1, 3, SIZE, SIZE, device="meta"))
    return counter.get_total_flops()


def gpu_bytes(params: Params) -> int:
    """What training takes of a GPU's memory: weights with gradient, momentum and copies, and what a batch keeps.

    A head keeps five times a batch's logits, and gradient and momentum of all its centres whatever the sample rate.
    """
    from stages.train.networks import create_on_meta

    network = create_on_meta(params.train.backbone).train()
    weights = sum(weight.numel() for weight in network.parameters())
    of_two, of_three = (_kept_bytes(network, batch) for batch in (2, 3))
    train = params.train
    share = 1.0 if train.precision == "fp32" else 0.5
    head = 4 * params.n_ids * (3 * network.embedding + 5 * train.batch_size * train.sample_rate)
    return int(16 * weights + share * train.batch_size * (of_three - of_two) + head)


def _kept_bytes(network: torch.nn.Module, batch: int) -> int:
    """What a forward pass keeps for the backward one."""
    import torch

    from stages.train.networks import SIZE

    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.empty(batch, 3, SIZE, SIZE, device="meta"))
    return sum(sizes)
