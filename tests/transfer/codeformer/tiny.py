"""CodeFormer of the official class, small: 32 px, 8 x 8 latents, 16 codes."""

import torch

from stages.transfer.codeformer.networks import CodeFormer
from tests.transfer.official import randomised

VQGAN_SIZES = {
    "size": 32,
    "width": 8,
    "multipliers": (1, 2, 2),
    "depth": 2,
    "attention": (8,),
    "codes": 16,
    "code": 8,
    "groups": 4,
}
SIZES = {**VQGAN_SIZES, "width_transformer": 16, "heads": 2, "layers": 2, "connect": (16, 32)}


def tiny(dtype: torch.dtype = torch.float32) -> CodeFormer:
    network = randomised(CodeFormer(**SIZES), scale=2.0).to(dtype)
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
            module.weight.data.add_(1)
    return network
