import math

import pytest
import torch
from torch.nn import functional as F

from stages.transfer.unsb.losses import bridge_loss, energy_loss, patch_nce


def log_sum(values):
    return math.log(sum(math.exp(value) for value in values.flatten().tolist()))


def test_energy_and_bridge_losses_by_loops():
    torch.manual_seed(0)
    own, cross = torch.randn(2, 2, 1, 3, 2, dtype=torch.float64)
    x, fake = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    mean, rest = sum(own.flatten().tolist()) / own.numel(), log_sum(cross)
    assert energy_loss(own, cross).item() == pytest.approx(-mean + rest + rest**2)
    cost = sum(value**2 for value in (x - fake).flatten().tolist()) / x.numel()
    wanted = -0.6 * 0.01 * (mean - rest) + 0.01 * cost
    assert bridge_loss(own, cross, x, fake, left=0.6, tau=0.01).item() == pytest.approx(wanted)


def test_patch_nce_by_loops():
    torch.manual_seed(0)
    query, key = F.normalize(torch.randn(2, 3, 4, 5, dtype=torch.float64), dim=-1)
    losses = []
    for image in range(3):
        for place in range(4):
            own = float(query[image, place] @ key[image, place])
            others = [-10.0 if k == place else float(query[image, place] @ key[image, k]) for k in range(4)]
            logits = torch.tensor([own, *others]) / 0.07
            losses.append(log_sum(logits) - logits[0].item())
    assert patch_nce(query, key).item() == pytest.approx(sum(losses) / 12, rel=1e-5)


def test_patches_are_compared_within_their_image():
    """Two images of the same patches are as good as one."""
    query, key = F.normalize(torch.randn(2, 1, 4, 5), dim=-1)
    torch.testing.assert_close(patch_nce(query.expand(2, -1, -1), key.expand(2, -1, -1)), patch_nce(query, key))


def test_keys_learn_nothing():
    query, key = torch.randn(1, 3, 4, requires_grad=True), torch.randn(1, 3, 4, requires_grad=True)
    patch_nce(query, key).backward()
    assert key.grad is None
    assert query.grad.any()
