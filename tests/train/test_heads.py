import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.train.heads import AdaFace, ArcFace, ArcFaceExact, ArcMarginProduct, CosFace, create_head
from stages.train.knobs import Train

N, D, C = 12, 16, 7


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    norms = torch.linspace(0.0005, 130, N, dtype=torch.float64)  # past both ends of AdaFace's clip
    embeddings = F.normalize(torch.randn(N, D, generator=generator, dtype=torch.float64)) * norms[:, None]
    return embeddings, torch.randint(C, (N,), generator=generator)


def cosines_by_loop(embeddings, kernel):
    cosines = np.empty((N, C))
    for i in range(N):
        for c in range(C):
            e, k = embeddings[i].numpy(), kernel[:, c].detach().numpy()
            cosines[i, c] = e @ k / math.sqrt(e @ e) / math.sqrt(k @ k)
    return cosines


@pytest.mark.parametrize(
    ("head", "with_margin"),
    [
        (ArcFace(D, C, margin=0.5, scale=64), lambda cosine: math.cos(math.acos(cosine) + 0.5)),
        (ArcFaceExact(D, C, margin=0.5, scale=64), lambda cosine: math.cos(math.acos(cosine) + 0.5)),
        (CosFace(D, C, margin=0.4, scale=30), lambda cosine: cosine - 0.4),
    ],
    ids=["arcface", "arcface-exact", "cosface"],
)
def test_fixed_margins_by_loop(batch, head, with_margin):
    embeddings, labels = batch
    logits, cosines = head.double()(embeddings, labels)
    expected = cosines_by_loop(embeddings, head.kernel)
    np.testing.assert_allclose(cosines, expected, atol=1e-9)
    for i, label in enumerate(labels):
        expected[i, label] = with_margin(expected[i, label])
    np.testing.assert_allclose(logits.detach(), head.s * expected, atol=1e-9)


@pytest.mark.parametrize("easy", [False, True])
@pytest.mark.parametrize("margin", [0.5, 2.0])  # the larger, so that some cosines lie beyond the threshold
def test_arc_margin_product_by_loop_with_its_gradient(batch, easy, margin):
    """The official `metrics.py` written out."""
    embeddings, labels = batch[0].clone().requires_grad_(), batch[1]
    torch.manual_seed(0)
    knobs = Train(head="ArcMarginProduct", margin=margin, scale=8, easy_margin=easy)
    head = create_head(knobs, D, C).double()
    logits, cosines = head(embeddings, labels)
    expected, slopes = cosines_by_loop(embeddings.detach(), head.kernel), np.ones((N, C))
    np.testing.assert_allclose(cosines, expected, atol=1e-9)
    beyond = 0
    for i, label in enumerate(labels.tolist()):
        cosine = expected[i, label]
        phi = cosine * math.cos(margin) - math.sqrt(1 - cosine**2) * math.sin(margin)
        if cosine > (0 if easy else math.cos(math.pi - margin)):
            expected[i, label] = phi
            slopes[i, label] = math.cos(margin) + math.sin(margin) * cosine / math.sqrt(1 - cosine**2)
        else:
            expected[i, label] = cosine - (0 if easy else math.sin(math.pi - margin) * margin)
            beyond += 1
    assert beyond or (margin == 0.5 and not easy)
    np.testing.assert_allclose(logits.detach(), 8 * expected, atol=1e-9)
    F.cross_entropy(logits, labels).backward()
    parts = gradients_by_loop(embeddings, head.kernel, labels, logits.detach().numpy(), 8, slopes)
    np.testing.assert_allclose(embeddings.grad, parts[0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(head.kernel.grad, parts[1], rtol=1e-9, atol=1e-10)


def test_arc_margin_product_falls_on_beyond_its_threshold():
    """At θ = π - m, where cos(θ + m) turns, SynFace's logit goes on falling, with a step of m sin m - (1 - cos m)."""
    head = ArcMarginProduct(2, 2, margin=0.5, scale=1)
    angles = torch.linspace(0, math.pi, 400, dtype=torch.float64)
    logits = head.with_margin(angles.cos(), torch.ones(400))
    assert (logits.diff() < 0).all()
    before, after = (
        head.with_margin(torch.tensor([math.cos(math.pi - 0.5 + d)]), torch.ones(1)) for d in (-1e-4, 1e-4)
    )
    assert (before - after).item() == pytest.approx(math.cos(0.5) + 0.5 * math.sin(0.5) - 1, abs=1e-3)


def test_arc_margin_product_has_the_official_start():
    """Xavier's uniform distribution over (c, d), and s 30, m 0.5."""
    head = ArcMarginProduct(512, 1000)
    assert (head.s, head.m, head.easy_margin) == (30, 0.5, False)
    bound = math.sqrt(6 / 1512)
    assert 0.99 * bound < head.kernel.abs().max() <= bound
    assert head.kernel.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_adaface_by_loop(batch):
    """The official `head.py` written out, over two batches: the statistics move before they are used."""
    embeddings, labels = batch
    m, h, s, t_alpha, eps = 0.4, 0.333, 64, 0.3, 1e-3
    head = AdaFace(D, C, m, s, h, t_alpha).double()
    mean, std = 20.0, 100.0
    for scale in (1.0, 0.2):
        logits, _ = head(scale * embeddings, labels)
        norms = [min(max(float(scale * e.norm()), 0.001), 100) for e in embeddings]
        average = sum(norms) / N
        deviation = math.sqrt(sum((norm - average) ** 2 for norm in norms) / (N - 1))
        mean = t_alpha * average + (1 - t_alpha) * mean
        std = t_alpha * deviation + (1 - t_alpha) * std
        expected = np.clip(cosines_by_loop(embeddings, head.kernel), -1 + eps, 1 - eps)
        for i, label in enumerate(labels):
            z = min(max((norms[i] - mean) / (std + eps) * h, -1), 1)
            for c in range(C):
                angle = math.acos(expected[i, c]) - (m * z if c == label else 0)
                angle = min(max(angle, eps), math.pi - eps)
                expected[i, c] = math.cos(angle) - (m + m * z if c == label else 0)
        np.testing.assert_allclose(logits.detach(), s * expected, atol=1e-9)
    assert head.batch_mean.item() == pytest.approx(mean)
    assert head.batch_std.item() == pytest.approx(std)


def gradients_by_loop(embeddings, kernel, labels, logits, scale, slopes):
    """Of the mean cross-entropy by embeddings and kernel, written out in float64.

    slopes: [n, c] d(logit / scale) / d(cosine).
    """
    e, k = embeddings.detach().numpy(), kernel.detach().numpy()
    by_embedding, by_kernel = np.zeros_like(e), np.zeros_like(k)
    for i in range(len(e)):
        odds = np.exp(logits[i] - logits[i].max())
        share = odds / odds.sum()
        for c in range(k.shape[1]):
            by_cosine = scale * (share[c] - (c == int(labels[i]))) / len(e) * slopes[i, c]
            long, wide = math.sqrt(e[i] @ e[i]), math.sqrt(k[:, c] @ k[:, c])
            cosine = e[i] @ k[:, c] / long / wide
            by_embedding[i] += by_cosine * (k[:, c] / wide - cosine * e[i] / long) / long
            by_kernel[:, c] += by_cosine * (e[i] / long - cosine * k[:, c] / wide) / wide
    return by_embedding, by_kernel


@pytest.mark.parametrize("name", ["arcface", "arcface-exact", "cosface", "adaface"])
def test_gradients_by_loop(batch, name):
    """insightface's ArcFace passes the margin as identity; the exact one and AdaFace have the formula's slope."""
    embeddings, labels = batch[0].clone().requires_grad_(), batch[1]
    head = create_head(Train(head=name, margin=0.5, scale=8, t_alpha=0.4), D, C).double()
    logits, _ = head(embeddings, labels)
    F.cross_entropy(logits, labels).backward()
    slopes = np.ones((N, C))
    for i, label in enumerate(labels):
        angle = math.acos(cosines_by_loop(embeddings.detach(), head.kernel)[i, label])
        if name == "arcface-exact":
            slopes[i, label] = math.sin(angle + 0.5) / math.sin(angle)
        if name == "adaface":
            norm = min(max(embeddings[i].norm().item(), 0.001), 100)
            z = (norm - head.batch_mean.item()) / (head.batch_std.item() + 1e-3) * 0.333
            slopes[i, label] = math.sin(angle - 0.5 * min(max(z, -1), 1)) / math.sin(angle)
    parts = gradients_by_loop(embeddings, head.kernel, labels, logits.detach().numpy(), 8, slopes)
    np.testing.assert_allclose(embeddings.grad, parts[0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(head.kernel.grad, parts[1], rtol=1e-9, atol=1e-10)


def at_cosine(head, cosine):
    """d(own logit) / d(own cosine) of one embedding at this cosine to its centre, in the plane of two centres."""
    head = head.double()
    with torch.no_grad():
        head.kernel.copy_(torch.eye(2))
    along = torch.tensor(math.acos(cosine), dtype=torch.float64, requires_grad=True)  # the angle
    logits, _ = head(torch.stack([along.cos(), along.sin()])[None], torch.tensor([0]))
    logits[0, 0].backward()
    return -along.grad.item() / math.sin(along.item())


def test_where_the_official_gradient_and_the_formulas_part():
    near, far = 0.9999, math.cos(math.pi - 0.4)
    assert at_cosine(ArcFace(2, 2, 0.5, 1), near) == pytest.approx(1)
    assert at_cosine(ArcFace(2, 2, 0.5, 1), far) == pytest.approx(1)
    assert at_cosine(ArcFaceExact(2, 2, 0.5, 1), near) == pytest.approx(
        math.sin(math.acos(near) + 0.5) / math.sin(math.acos(near))
    )
    assert at_cosine(ArcFaceExact(2, 2, 0.5, 1), near) > 30
    assert at_cosine(ArcFaceExact(2, 2, 0.5, 1), far) < 0  # past pi - m it drives away


@pytest.mark.parametrize(("head", "at_one"), [(ArcFace, math.cos(0.5)), (CosFace, 0.5)])
def test_a_perfect_cosine_is_one(head, at_one):
    """insightface clamps at 1, not below."""
    made = head(2, 2, margin=0.5, scale=1).double()
    with torch.no_grad():
        made.kernel.copy_(torch.eye(2))
    logits, cosines = made(torch.tensor([[3.0, 0.0], [0.0, -1.0]], dtype=torch.float64), torch.tensor([0, 0]))
    assert cosines.tolist() == [[1, 0], [0, -1]]
    assert logits[0].tolist() == pytest.approx([at_one, 0], abs=1e-12)


@pytest.mark.parametrize("name", ["arcface", "arcface-exact", "cosface"])
def test_filtering_by_loop(batch, name):
    """Other classes' cosines above the threshold become 0 and take no gradient; the own class never does."""
    embeddings, labels = batch[0].clone().requires_grad_(), batch[1].clone()
    labels[:3] = -1  # of no class: no margin, and every class is another
    threshold = 0.2
    kinds = {"margin": 0.3, "scale": 8, "interclass_filtering_threshold": threshold}
    head = create_head(Train(head=name, **kinds), D, C).double()
    plain = create_head(Train(head=name, margin=0.3, scale=8), D, C).double()
    plain.load_state_dict(head.state_dict())
    logits, cosines = head(embeddings, labels)
    expected = plain(embeddings, labels)[0].detach().numpy()
    filtered = 0
    for i, label in enumerate(labels.tolist()):
        for c in range(C):
            if c != label and cosines[i, c] > threshold:
                expected[i, c] = 0
                filtered += 1
    assert 5 < filtered < N * C / 2
    np.testing.assert_allclose(logits.detach(), expected, atol=1e-12)
    rows, columns = np.nonzero(expected == 0)
    logits[rows, columns].sum().backward()
    assert not embeddings.grad.any()


@pytest.mark.parametrize("name", ["arcface", "arcface-exact", "cosface", "adaface", "ArcMarginProduct"])
def test_an_image_of_no_class_gets_no_margin(batch, name):
    embeddings, labels = batch[0], batch[1].clone()
    labels[[0, 4]] = -1
    head = create_head(Train(head=name, margin=0.3, scale=8), D, C).double()
    logits, cosines = head(embeddings, labels)
    torch.testing.assert_close(logits[[0, 4]], 8 * cosines[[0, 4]])
    known = labels != -1
    assert (logits[known, labels[known]] < 8 * cosines[known, labels[known]]).all()


def test_adaface_clips_quality_and_angle():
    head = AdaFace(2, 2, margin=0.4, scale=1, h=5, t_alpha=0)
    with torch.no_grad():
        head.kernel.copy_(torch.eye(2))
        head.batch_mean.fill_(10)
        head.batch_std.fill_(1)
    labels = torch.tensor([0, 0])
    logits, _ = head(torch.tensor([[50.0, 0], [1e-9, 0]]), labels)
    # z is 1 and -1; the angle of the first is clipped to eps from below, the second's is arccos(1 - eps) + m
    assert logits[0, 0].item() == pytest.approx(math.cos(1e-3) - 0.8, abs=1e-6)
    assert logits[1, 0].item() == pytest.approx(math.cos(0.4 + math.acos(0.999)), abs=1e-5)


def test_adaface_takes_a_batch_of_one(batch):
    head = AdaFace(D, C, 0.4, 64).double()
    logits, _ = head(batch[0][5:6], batch[1][5:6])
    assert torch.isfinite(logits).all()
    assert head.batch_std.item() == 100
    assert head.batch_mean.item() == pytest.approx(0.99 * 20 + 0.01 * batch[0][5].norm().item())


def test_quality_takes_no_gradient(batch):
    """The norm steers the margin, but a longer embedding gains nothing: the gradient is orthogonal to it."""
    embeddings = batch[0].clone().requires_grad_()
    head = AdaFace(D, C, 0.4, 64, t_alpha=0.5).double()
    F.cross_entropy(head(embeddings, batch[1])[0], batch[1]).backward()
    along = (embeddings.grad * embeddings).sum(1).abs() / embeddings.norm(dim=1)
    assert (along < 1e-8 * embeddings.grad.norm(dim=1).clamp(min=1)).all()


@pytest.mark.parametrize("name", ["adaface", "arcface", "arcface-exact", "cosface", "ArcMarginProduct"])
def test_gradients_are_finite_at_the_ends_and_differ_from_none_elsewhere(name):
    head = create_head(Train(head=name), 4, 3)
    with torch.no_grad():
        head.kernel.copy_(torch.eye(4, 3))
    ends = torch.eye(4)[:2] * torch.tensor([[20.0], [-20.0]])
    embeddings = torch.cat([ends, torch.ones(1, 4)]).requires_grad_()
    labels = torch.tensor([0, 1, 2])
    F.cross_entropy(head(embeddings, labels)[0], labels).backward()
    assert torch.isfinite(embeddings.grad).all()
    assert embeddings.grad[2].abs().sum() > 0


def test_margin_makes_the_loss_larger(batch):
    losses = []
    for margin in (0.0, 0.2, 0.4):
        torch.manual_seed(0)
        head = CosFace(D, C, margin, 64).double()
        losses.append(F.cross_entropy(head(*batch)[0], batch[1]).item())
    assert losses == sorted(losses)
    assert losses[0] < losses[1]


def test_adaface_starts_with_unit_centres():
    torch.testing.assert_close(AdaFace(D, C, 0.4, 64).kernel.norm(dim=0), torch.ones(C))
