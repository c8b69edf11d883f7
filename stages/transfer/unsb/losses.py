"""UNSB's losses beside LSGAN (`sb_model.py`, `patchnce.py`).

Notation: n images, h x w pixels, q patches that the energy network sees, p patches of a layer, d dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def energy_loss(own: Tensor, cross: Tensor) -> Tensor:
    """What the energy network minimises, given its outputs for pairs with themselves and with others, [n, 1, …] both.

    -E(own) + l + l^2, l the log of the sum of exp E(cross) over all images and patches, which l^2 keeps near 0.
    """
    log_sum = cross.flatten().logsumexp(0)
    return -own.mean() + log_sum + log_sum.square()


def bridge_loss(own: Tensor, cross: Tensor, x: Tensor, fake: Tensor, left: float, tau: float) -> Tensor:
    """The Schrödinger-bridge loss: entropy of the way, estimated by the energy network, and its cost.

    Args:
        own, cross: energies of pairs (x, fake) with themselves and with others, [n, 1, …].
        x: where images stand, [n, 3, h, w].
        fake: where they lead.
        left: part of the steps that is left, (T - t) / T.
        tau: the bridge's noise.
    """
    entropy = own.mean() - cross.flatten().logsumexp(0)
    return tau * ((x - fake).square().mean() - left * entropy)


def patch_nce(query: Tensor, key: Tensor, temperature: float = 0.07) -> Tensor:
    """How badly patches find themselves again among an image's patches (Park et al. 2020).

    Args:
        query: of the translated images, [n, p, d], unit norm.
        key: of the images, likewise, as they are.
        temperature: of the softmax.

    Returns:
        (): cross-entropy of each patch's own key against the image's others; the mean. As officially, a logit of
        -10 / temperature, which hardly counts, stands in its own place among the others.
    """
    key = key.detach()
    cosines = query @ key.transpose(1, 2)
    own = cosines.diagonal(dim1=1, dim2=2)[..., None]
    others = cosines.masked_fill(torch.eye(cosines.shape[1], dtype=torch.bool, device=cosines.device), -10.0)
    logits = torch.cat([own, others], 2).flatten(0, 1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
