"""What training takes of a machine, about: time, and a GPU's memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.run.machine import Machine, Work

if TYPE_CHECKING:
    import torch

    from stages.params import Params

STEP = 3  # operations of a training step over those of a forward pass


def cost(params: Params, root: Path, machine: Machine) -> Work:
    """About how long training takes."""
    train, images = params.train, params.n_ids * params.images_per_id
    work = STEP * images * train.epochs * flops(train.backbone)
    return Work(machine.seconds(work, train.device, train.precision), f"{train.epochs} epochs of {images:,} images")


def flops(backbone: str) -> float:
    """Floating-point operations of an image's embedding."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from stages.train.networks import SIZE, create_on_meta

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        create_on_meta(backbone).eval()(torch.empty(1, 3, SIZE, SIZE, device="meta"))
    return counter.get_total_flops()


def gpu_bytes(params: Params) -> int:
    """What training takes of a GPU's memory: weights with gradient, momentum and copies, and what a batch keeps."""
    from stages.train.networks import create_on_meta

    network = create_on_meta(params.train.backbone).train()
    weights = sum(weight.numel() for weight in network.parameters())
    of_two, of_three = (_kept_bytes(network, batch) for batch in (2, 3))
    share = 1.0 if params.train.precision == "fp32" else 0.5
    return int(16 * weights + share * params.train.batch_size * (of_three - of_two))


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
