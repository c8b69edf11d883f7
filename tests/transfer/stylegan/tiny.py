"""StyleGAN2 and its encoders of the official classes, small: 16 px, 6 styles of 8 dimensions."""

import torch

from stages.transfer.stylegan.encoders import E4EEncoder, PSPEncoder
from stages.transfer.stylegan.files import Inverter
from stages.transfer.stylegan.networks import Generator
from tests.transfer.official import randomised

SIZES = {"size": 16, "style": 8, "mlp": 2, "channel_base": 64, "channel_max": 8}
ENCODER = {"size": 32, "depths": (1, 1, 1, 1), "widths": (16, 24, 32, 40)}


def generator(seed: int = 0) -> Generator:
    """As initialised, so that its images are about [-1, 1], with some strength of noise."""
    torch.manual_seed(seed)
    network = Generator(**SIZES).eval()
    for name, value in network.named_parameters():
        if name.endswith("noise.weight"):
            value.data.fill_(0.1)
        elif name.endswith("bias") and "modulation" not in name:
            value.data.normal_(0, 0.2)
    return network


def encoder(kind: type = E4EEncoder, seed: int = 0) -> E4EEncoder | PSPEncoder:
    return randomised(kind(styles=6, dimension=8, **ENCODER), seed, 1.5)


def inverter(kind: type = E4EEncoder) -> Inverter:
    return Inverter(generator(), torch.linspace(-1, 1, 48).view(6, 8), encoder(kind))
