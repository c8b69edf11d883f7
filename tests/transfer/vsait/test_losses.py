import pytest
import torch

from stages.transfer.vsait.losses import adversarial_loss, discriminator_loss, vsa_loss


def test_hinge_losses_by_hand():
    one, two, real = torch.tensor([[-2.0, 0.5]]), torch.tensor([[0.0]]), torch.tensor([[3.0, -1.0], [0.5, 1.0]])
    assert adversarial_loss(one, two).item() == pytest.approx(-(-0.75 + 0) / 2)
    fakes = [(0 + 1.5) / 2, 1.0]
    assert discriminator_loss([one, two], real).item() == pytest.approx((sum(fakes) + (0 + 2 + 0.5 + 0) / 4) / 3)


def test_vsa_loss_by_loops():
    torch.manual_seed(0)
    unbound, source = torch.randn(2, 2, 5, 3, 4, dtype=torch.float64)
    cosines = [
        float(unbound[n, :, u, v] @ source[n, :, u, v] / unbound[n, :, u, v].norm() / source[n, :, u, v].norm())
        for n in range(2)
        for u in range(3)
        for v in range(4)
    ]
    assert vsa_loss(unbound, source).item() == pytest.approx(1 - sum(cosines) / len(cosines))
    assert vsa_loss(3 * source, source).item() == pytest.approx(0, abs=1e-12)


def test_the_source_learns_nothing_from_the_vsa_loss():
    unbound, source = torch.randn(2, 1, 5, 3, 4).requires_grad_().unbind()
    source.retain_grad()
    vsa_loss(unbound, source).backward()
    assert source.grad is None
