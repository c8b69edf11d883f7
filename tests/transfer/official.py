"""Made-up files in official layouts, from the listings in tests/state_dicts: name, shape and dtype of each tensor."""

import ast
from pathlib import Path

import torch
from torch import nn

LISTINGS = Path(__file__).parent.parent / "state_dicts"


def listing(name: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    lines = (line.split("\t") for line in (LISTINGS / f"{name}.txt").read_text().splitlines())
    return {key: (ast.literal_eval(shape), getattr(torch, dtype)) for key, shape, dtype in lines}


def described(network: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(value.shape), value.dtype) for name, value in network.state_dict().items()}


def randomised(network: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """The network in evaluation mode, with every float of it random, buffers and zero-initialised weights as well."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not name.endswith("kernel"):
            fan = max(1, value[0].numel()) if value.ndim > 1 else 4
            value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype) * scale / fan**0.5)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return network.eval()
