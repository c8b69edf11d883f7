"""Soft labels and domain mixup against the official order of operations, written out image by image in float64."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.train.heads import AdaFace, ArcMarginProduct, CosFace
from stages.train.mixup import RATIOS, domain_ratio, mix_images, mix_labels
from stages.train.partial_fc import PartialFC

N, D, C = 6, 8, 5
S, M = 30.0, 0.5


class Batch(NamedTuple):
    """Images [n, 3, h, w], labels [n, k] and weights [n, k]."""

    images: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def head():
    torch.manual_seed(0)
    return PartialFC(ArcMarginProduct(D, C).double())


@pytest.fixture
def batches():
    """A synthetic batch of two labels an image, and a real one."""
    g = generator()
    images = torch.rand(2, N, 3, 4, 4, generator=g, dtype=torch.float64) * 2 - 1
    labels = torch.stack([torch.randperm(C, generator=g)[:2] for _ in range(N)])
    share = torch.tensor([0.0, 0.25, 0.5, 0.7, 1.0, 0.35], dtype=torch.float64)
    synthetic = Batch(images[0], labels, torch.stack([share, 1 - share], 1))
    real = Batch(images[1], torch.randint(C, (N, 1), generator=g), torch.ones(N, 1, dtype=torch.float64))
    return synthetic, real


def classifier(feature, kernel, label):
    """The official head for one image and one label: s (one-hot phi + (1 - one-hot) cosine)."""
    out = []
    for c in range(C):
        k = kernel[:, c]
        cosine = float(feature @ k) / math.sqrt(feature @ feature) / math.sqrt(k @ k)
        if c == label:
            phi = cosine * math.cos(M) - math.sqrt(max(1 - cosine**2, 0)) * math.sin(M)
            cosine = phi if cosine > math.cos(math.pi - M) else cosine - math.sin(math.pi - M) * M
        out.append(S * cosine)
    return np.array(out)


def cross_entropy(output, label):
    return math.log(sum(math.exp(value - output.max()) for value in output)) + output.max() - output[label]


def official_loss(features, kernel, synthetic, real, lam):
    """`lib/core/functions.py`: logits mixed by both ratios, then each label's loss by its own."""
    losses = {"a": [], "b": [], "real": []}
    for i in range(N):
        (a, b), (w_a, w_b), r = synthetic.labels[i].tolist(), synthetic.weights[i].tolist(), int(real.labels[i])
        output = w_a * classifier(features[i], kernel, a) + w_b * classifier(features[i], kernel, b)
        output = lam * output + (1 - lam) * classifier(features[i], kernel, r)
        losses["a"].append(w_a * cross_entropy(output, a))
        losses["b"].append(w_b * cross_entropy(output, b))
        losses["real"].append(cross_entropy(output, r))
    return lam * (np.mean(losses["a"]) + np.mean(losses["b"])) + (1 - lam) * np.mean(losses["real"])


def mixed_domains(synthetic, real, ratio):
    """Both with as many labels an image, joined and mixed."""
    more = torch.zeros_like(real.labels), torch.zeros_like(real.weights)
    real = Batch(real.images, *(torch.cat(pair, 1) for pair in zip(real[1:], more, strict=True)))
    images, *labels = (torch.cat(pair) for pair in zip(synthetic, real, strict=True))
    return Batch(mix_images(ratio, images), *mix_labels(ratio, *labels))


@pytest.mark.parametrize("lam", [0.0, 0.35, 1.0])
def test_domain_mixup_is_the_official_loss_with_its_gradient(head, batches, lam):
    synthetic, real = batches
    mixed = mixed_domains(synthetic, real, lam)
    for i in range(N):
        torch.testing.assert_close(mixed.images[i], lam * synthetic.images[i] + (1 - lam) * real.images[i])
    features = torch.randn(N, D, generator=generator(), dtype=torch.float64).requires_grad_()
    loss, _ = head(features, mixed.labels, mixed.weights)
    values, kernel = features.detach().numpy(), head.head.kernel.detach().numpy().copy()
    assert loss.item() == pytest.approx(official_loss(values, kernel, synthetic, real, lam), abs=1e-10)

    loss.backward()
    step = 1e-6
    for place in [(0, 0), (2, 3), (5, 7)]:
        for one, grad in ((values, features.grad), (kernel, head.head.kernel.grad)):
            at = (place[0], place[1] % one.shape[1])
            one[at] += step
            above = official_loss(values, kernel, synthetic, real, lam)
            one[at] -= 2 * step
            slope = (above - official_loss(values, kernel, synthetic, real, lam)) / (2 * step)
            one[at] += step
            assert grad[at].item() == pytest.approx(slope, abs=1e-6)


def test_at_the_ends_domain_mixup_is_one_domain_alone(head, batches):
    features = torch.randn(N, D, generator=generator(), dtype=torch.float64)
    for ratio, alone in ((1.0, batches[0]), (0.0, batches[1])):
        mixed = mixed_domains(*batches, ratio)
        torch.testing.assert_close(mixed.images, alone.images)
        losses = [head(features, some.labels, some.weights)[0] for some in (mixed, alone)]
        torch.testing.assert_close(*losses)


def test_a_batch_of_two_halves_with_one_label_each():
    images, labels = torch.rand(2 * N, 3, 4, 4), torch.arange(2 * N)
    torch.testing.assert_close(mix_images(0.3, images), 0.3 * images[:N] + 0.7 * images[N:])
    mixed, weights = mix_labels(0.3, labels)
    assert mixed.tolist() == [[k, N + k] for k in range(N)]
    torch.testing.assert_close(weights, torch.tensor([[0.3, 0.7]]).expand(N, 2))


def test_soft_labels_of_one_class_are_the_hard_ones():
    features, labels = torch.randn(N, D, generator=generator()), torch.arange(N) % C
    head = PartialFC(CosFace(D, C, 0.2, 16))
    loss, accuracy = head(features, labels)
    for soft, weights in (
        (labels[:, None], torch.ones(N, 1)),
        (labels[:, None].expand(-1, 2), torch.full((N, 2), 0.5)),
    ):
        again, same = head(features, soft, weights)
        torch.testing.assert_close(again, loss)
        assert same == accuracy


def test_the_accuracy_is_of_the_label_of_the_largest_weight():
    head = PartialFC(CosFace(2, 2, 0.1, 8))
    with torch.no_grad():
        head.head.kernel.copy_(torch.eye(2))
    labels, features = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0.1, 1.0], [1.0, 0.1]])
    assert head(features, labels, torch.tensor([[0.3, 0.7], [0.8, 0.2]]))[1] == 1
    assert head(features, labels, torch.tensor([[0.7, 0.3], [0.8, 0.2]]))[1] == 0.5


def test_a_head_with_a_state_is_called_for_each_label(batches):
    """Of a head with a state too: logits are the head's for each label, by weight."""
    synthetic, _ = batches
    features = torch.randn(N, D, generator=generator(), dtype=torch.float64)
    head, other = (AdaFace(D, C, t_alpha=1.0).double() for _ in range(2))
    other.load_state_dict(head.state_dict())
    each = [other(features, label)[0] for label in synthetic.labels.unbind(1)]
    logits = synthetic.weights[:, :1] * each[0] + synthetic.weights[:, 1:] * each[1]
    losses = [F.cross_entropy(logits, label, reduction="none") for label in synthetic.labels.unbind(1)]
    loss, _ = PartialFC(head)(features, synthetic.labels, synthetic.weights)
    torch.testing.assert_close(loss, sum((synthetic.weights[:, k] * of).mean() for k, of in enumerate(losses)))
    assert torch.equal(head.batch_mean, other.batch_mean)


def test_the_ratios_are_the_official_grid_one_a_step():
    assert RATIOS.round(3).tolist() == [round(0.05 * k, 3) for k in range(21)]
    drawn = [domain_ratio(0, step) for step in range(2100)]
    assert set(drawn) == set(RATIOS.tolist())
    assert 0.45 < np.mean(drawn) < 0.55
    assert drawn[:5] == [domain_ratio(0, step) for step in range(5)]
    assert drawn[:50] != [domain_ratio(1, step) for step in range(50)]
