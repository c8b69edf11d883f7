import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

from stages.training import cosine, multistep, warmup


def torchs(make, length):
    """The factors of one of torch's schedules over `length` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(length):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_they_are_torchs():
    steps = range(30)
    assert [cosine(step, 30) for step in steps] == pytest.approx(torchs(lambda o: CosineAnnealingLR(o, 30), 30))
    stones = [12, 20, 24]
    assert [multistep(step, stones) for step in steps] == pytest.approx(torchs(lambda o: MultiStepLR(o, stones), 30))
    halves = torchs(lambda o: MultiStepLR(o, stones, gamma=0.5), 30)
    assert [multistep(step, stones, 0.5) for step in steps] == pytest.approx(halves)
    rise = torchs(lambda o: LinearLR(o, 1e-9, 1, total_iters=5), 30)
    assert [warmup(step, 5) for step in steps] == pytest.approx(rise, abs=1e-8)


def test_at_their_ends():
    assert [warmup(0, 0), warmup(0, 2), warmup(2, 2), warmup(9, 2)] == [1, 0, 1, 1]
    assert [cosine(0, 4), cosine(4, 4), cosine(5, 4)] == [1, 0, 0]
    assert [multistep(1.99, [2, 3]), multistep(2, [2, 3]), multistep(3, [])] == [1, 0.1, 1]
