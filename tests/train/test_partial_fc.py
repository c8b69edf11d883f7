import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.train.heads import create_head
from stages.train.knobs import Train
from stages.train.partial_fc import PartialFC

N, D, C = 6, 5, 20


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=generator), torch.tensor([3, 17, 3, 0, 9, 12])


def heads(name, rate):
    """The same centres in a head and in a PartialFC."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(create_head(Train(head=name, margin=0.3, scale=8), D, C))
    return made[0], PartialFC(made[1], rate)


@pytest.mark.parametrize("name", ["adaface", "arcface", "arcface-exact", "cosface"])
def test_alone_at_rate_one_it_is_the_head_and_the_cross_entropy(batch, name):
    head, partial = heads(name, 1.0)
    first, second = (batch[0].clone().requires_grad_() for _ in range(2))
    logits, cosines = head(first, batch[1])
    expected = F.cross_entropy(logits, batch[1])
    loss, accuracy = partial(second, batch[1])
    expected.backward()
    loss.backward()
    assert torch.equal(loss, expected)
    assert torch.equal(first.grad, second.grad)
    assert torch.equal(head.kernel.grad, partial.head.kernel.grad)
    assert accuracy == (cosines.argmax(1) == batch[1]).float().mean()


def test_a_sample_by_loop(batch, monkeypatch):
    """The softmax is over the drawn classes alone, and no other centre gets a gradient."""
    _, partial = heads("cosface", 0.5)
    drawn = []
    sample = partial.sample
    monkeypatch.setattr(partial, "sample", lambda positive: drawn.append(sample(positive)) or drawn[-1])
    loss, accuracy = partial(*batch)
    loss.backward()
    (columns,) = drawn
    assert len(columns) == 10
    assert columns.tolist() == sorted(set(columns.tolist()))
    assert set(batch[1].tolist()) <= set(columns.tolist())

    embeddings, kernel = batch[0].double().numpy(), partial.head.kernel.detach().double().numpy()
    losses, right = [], 0
    for i in range(N):
        cosine = {}
        for c in columns.tolist():
            e, k = embeddings[i], kernel[:, c]
            cosine[c] = e @ k / math.sqrt(e @ e) / math.sqrt(k @ k)
        own = int(batch[1][i])
        right += max(cosine, key=cosine.get) == own
        odds = {c: math.exp(8 * (value - 0.3 * (c == own))) for c, value in cosine.items()}
        losses.append(-math.log(odds[own] / sum(odds.values())))
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert accuracy.item() == pytest.approx(right / N)
    touched = partial.head.kernel.grad.abs().sum(0) > 0
    assert touched.nonzero()[:, 0].tolist() == columns.tolist()


def test_classes_are_drawn_evenly_and_by_the_seed(batch):
    _, partial = heads("cosface", 0.3)
    positive = torch.tensor([2, 5])
    torch.manual_seed(1)
    draws = [partial.sample(positive) for _ in range(2000)]
    counts = torch.bincount(torch.cat(draws), minlength=C) / len(draws)
    assert counts[positive].tolist() == [1, 1]
    counts[positive] = 4 / 18  # of the others that are drawn, over all others
    assert (counts - 4 / 18).abs().max() < 0.04  # four standard deviations
    torch.manual_seed(1)
    assert torch.equal(partial.sample(positive), draws[0])


def test_more_classes_in_a_batch_than_the_rate_allows_are_all_kept():
    _, partial = heads("cosface", 0.1)
    positive = torch.tensor([1, 4, 7])
    assert partial.sample(positive).tolist() == [1, 4, 7]
    assert len(partial.sample(torch.tensor([4]))) == 2
    assert len(heads("cosface", 0.01)[1].sample(torch.tensor([], dtype=torch.int64))) == 1
