import math

import numpy as np
import pytest
from scipy.stats import beta, kstest

from stages.transfer.arc2face.sampling import angular_latents, sample_latents, slerp

rng = np.random.default_rng(0)


def unit(*shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def textbook(start, end, t):
    """Shoemake's formula, one vector and one coordinate at a time."""
    angle = math.acos(sum(a * b for a, b in zip(start, end, strict=True)))
    left, right = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return [left * a + right * b for a, b in zip(start, end, strict=True)]


def test_slerp_is_the_textbooks():
    start, end, t = unit(50, 7), unit(50, 7), rng.uniform(size=50)
    expected = [textbook(*row) for row in zip(start, end, t, strict=True)]
    np.testing.assert_allclose(slerp(start, end, t), expected, atol=1e-12)


def test_slerp_goes_the_share_t_of_the_angle():
    start, end, t = unit(200, 5), unit(200, 5), rng.uniform(size=200)
    whole = np.arccos(np.sum(start * end, axis=1))
    gone = np.arccos(np.sum(start * slerp(start, end, t), axis=1))
    np.testing.assert_allclose(gone, t * whole, atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-300, 1e-13, 1e-9, 1e-3, 3.0, np.pi - 1e-9, np.pi - 1e-13, np.pi])
def test_slerp_is_stable_at_every_angle(angle):
    start, tangent = np.linalg.qr(rng.normal(size=(8, 2)))[0].T
    end = np.cos(angle) * start + np.sin(angle) * tangent
    t = np.linspace(0, 1, 11)
    path = slerp(np.tile(start, (11, 1)), np.tile(end, (11, 1)), t)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(path[[0, -1]], [start, end], atol=1e-12)
    chords = np.linalg.norm(np.diff(path, axis=0), axis=1)
    np.testing.assert_allclose(chords, 2 * np.sin(angle / 20), atol=1e-12)  # ten equal steps


def test_latents_lie_between_the_prototype_and_their_source():
    embeddings = unit(6, 16) + 2 * unit(1, 16)
    latents = sample_latents(embeddings, 3, latents=4, alpha=2.0, seed=1)
    sources = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    prototype = sources.mean(axis=0) / np.linalg.norm(sources.mean(axis=0))
    assert len(set(latents.source)) == 4
    for vector, t, source in zip(latents.vectors, latents.t, latents.source, strict=True):
        np.testing.assert_allclose(vector, textbook(prototype, sources[source], t), atol=1e-6)
    assert latents.vectors.dtype == np.float32


def test_a_latents_draw_is_its_own():
    embeddings = unit(8, 16)
    few = sample_latents(embeddings, 3, latents=2, alpha=2.0, seed=1)
    many = sample_latents(embeddings, 3, latents=6, alpha=2.0, seed=1)
    np.testing.assert_array_equal(many.vectors[:2], few.vectors)
    for identity, seed in ((4, 1), (3, 2)):
        other = sample_latents(embeddings, identity, latents=2, alpha=2.0, seed=seed)
        assert not np.isin(other.t, few.t).any()


def test_t_follows_beta():
    embeddings = unit(3, 4) + 1
    t = [sample_latents(embeddings, i, latents=4, alpha=3.0, seed=0).t for i in range(300)]
    assert kstest(np.concatenate(t), beta(3, 3).cdf).pvalue > 0.01


def test_first_sources_come_in_order_and_round_again():
    assert sample_latents(unit(3, 4) + 1, 0, latents=5, alpha=1.0, seed=0, sources="first").source.tolist() == [
        0,
        1,
        2,
        0,
        1,
    ]


def test_random_sources_reach_every_image():
    used = [sample_latents(unit(9, 4) + 1, i, latents=2, alpha=1.0, seed=0).source for i in range(60)]
    assert set(np.concatenate(used)) == set(range(9))


def test_selected_prototype_is_the_mean_of_the_selected():
    embeddings = np.eye(4)
    options = {"latents": 2, "alpha": 1.0, "seed": 0, "sources": "first"}
    selected = sample_latents(embeddings, 0, prototype="selected", **options)
    np.testing.assert_allclose(selected.vectors[:, 2:], 0, atol=1e-7)  # in the plane of the first two
    assert np.abs(sample_latents(embeddings, 0, prototype="all", **options).vectors[:, 2:]).min() > 0.01


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros((0, 4)), "no embeddings"),
        (np.zeros((2, 4)), "zero or not finite"),
        (np.full((2, 4), np.nan), "zero or not finite"),
        (np.array([[1.0, 0], [-1, 0]]), "cancel out"),
    ],
)
def test_broken_embeddings_are_refused_by_name(embeddings, message):
    with pytest.raises(ValueError, match=f"identity 7.*{message}"):
        sample_latents(embeddings, 7, latents=2, alpha=2.0, seed=0)


def turned(identity=3, lowest_cosine=0.6, nearest=np.pi, latents=400):
    embeddings = unit(6, 16) + 2 * unit(1, 16)
    mean = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(axis=0)
    drawn = angular_latents(embeddings, identity, latents=latents, lowest_cosine=lowest_cosine, nearest=nearest, seed=1)
    return drawn, mean / np.linalg.norm(mean)


@pytest.mark.parametrize(("nearest", "lowest"), [(np.pi, 0.6), (1.0, np.cos(0.5)), (0.0, 1.0)])
def test_angular_cosines_are_uniform_above_the_bound(nearest, lowest):
    """Half of the way to the nearest other, or `lowest_cosine`, whichever is nearer."""
    drawn, prototype = turned(nearest=nearest)
    cosines = drawn.vectors.astype(np.float64) @ prototype
    np.testing.assert_allclose(np.linalg.norm(drawn.vectors, axis=1), 1, atol=1e-6)
    assert cosines.min() > lowest - 1e-6
    if lowest < 1:
        assert kstest((cosines - lowest) / (1 - lowest), "uniform").pvalue > 0.01
    assert drawn.vectors.dtype == np.float32
    assert np.isnan(drawn.t).all()
    assert (drawn.source == -1).all()


def test_angular_directions_are_all_alike():
    """Across the prototype, 400 random unit tangents of 15 dimensions: mean about 0, second moments about 1 / 15."""
    drawn, prototype = turned()
    tangents = drawn.vectors - np.outer(drawn.vectors @ prototype, prototype)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    assert np.linalg.norm(tangents.mean(axis=0)) < 3 / np.sqrt(400)
    moments = np.linalg.eigvalsh(tangents.T @ tangents / 400)
    assert moments[0] < 1e-10
    assert 0.5 / 15 < moments[1] < moments[-1] < 1.6 / 15


def test_no_angular_latent_is_nearer_to_the_nearest_other():
    a, b = np.array([1.0, 0, 0, 0]), np.array([0.8, 0.6, 0, 0])
    drawn = angular_latents(a[None], 0, latents=500, lowest_cosine=0.0, nearest=np.arccos(a @ b), seed=0)
    assert (drawn.vectors @ a > drawn.vectors @ b).all()


def test_an_angular_draw_is_its_own():
    embeddings = unit(8, 16)
    options = {"lowest_cosine": 0.6, "nearest": 1.0}
    few = angular_latents(embeddings, 3, latents=2, seed=1, **options).vectors
    many = angular_latents(embeddings, 3, latents=6, seed=1, **options).vectors
    np.testing.assert_array_equal(many[:2], few)
    for identity, seed in ((4, 1), (3, 2)):
        assert not np.isin(angular_latents(embeddings, identity, latents=2, seed=seed, **options).vectors, few).any()
