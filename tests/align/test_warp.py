import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from stages.align.warp import ARCFACE_POINTS, centre_crop, similarity, warp


def scattered(n, seed=0):
    """The template turned, scaled, moved, and each point shifted by some pixels."""
    rng = np.random.default_rng(seed)
    angle, scale, move = rng.uniform(-np.pi, np.pi, n), rng.uniform(0.3, 3, n), rng.uniform(-200, 200, (n, 2))
    turn = scale[:, None, None] * np.moveaxis(
        np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), 2, 0
    )
    return ARCFACE_POINTS @ turn.transpose(0, 2, 1) + move[:, None] + rng.normal(0, 4, (n, 5, 2))


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def test_equals_scikit_image():
    points = scattered(20)
    for matrix, source in zip(similarity(points), points, strict=True):
        expected = SimilarityTransform.from_estimate(source, ARCFACE_POINTS)
        np.testing.assert_allclose(matrix, expected.params[:2], rtol=1e-9, atol=1e-9)


def test_equals_linear_least_squares():
    """x' = a x - b y + c and y' = b x + a y + d, ten equations in four unknowns."""
    points = scattered(5, seed=1)
    for matrix, source in zip(similarity(points), points, strict=True):
        (x, y), one, zero = source.T, np.ones(5), np.zeros(5)
        system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
        a, b, c, d = np.linalg.lstsq(system, ARCFACE_POINTS.T.reshape(-1), rcond=None)[0]
        np.testing.assert_allclose(matrix, [[a, -b, c], [b, a, d]], atol=1e-9)


def test_recovers_an_exact_similarity():
    truth = np.array([[0.6, -0.8, 5.0], [0.8, 0.6, -7.0]])
    source = np.random.default_rng(0).uniform(0, 100, (1, 5, 2))
    np.testing.assert_allclose(similarity(source, apply(truth, source[0]))[0], truth, atol=1e-12)


def test_never_reflects():
    mirrored = ARCFACE_POINTS * [-1, 1] + [112, 0]
    assert np.linalg.det(similarity(mirrored[None])[0][:, :2]) > 0


def test_two_points_fix_a_similarity():
    matrix = similarity(np.array([[[0.0, 0.0], [1.0, 0.0]]]), np.array([[10.0, 10.0], [10.0, 12.0]]))[0]
    np.testing.assert_allclose(matrix, [[0, -2, 10], [2, 0, 10]], atol=1e-12)


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_points_without_extent(points):
    with pytest.raises(ValueError, match="must not coincide"):
        similarity(np.stack([ARCFACE_POINTS, points]))


def test_warp_brings_landmarks_to_the_template_and_is_black_outside():
    points = ARCFACE_POINTS * 1.5 + [20, 30]
    image = np.zeros((300, 300, 3), np.uint8)
    for channel, (x, y) in enumerate(points[:3]):
        image[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4, channel] = 255
    warped = warp(image, similarity(points[None])[0])
    assert warped.shape == (112, 112, 3)
    for channel, point in enumerate(ARCFACE_POINTS[:3]):
        weights = warped[..., channel].astype(float)
        y, x = (np.indices(weights.shape) * weights).sum((1, 2)) / weights.sum()
        np.testing.assert_allclose((x, y), point, atol=0.4)
    white = warp(np.full((50, 50, 3), 255, np.uint8), np.array([[1.0, 0, 30], [0, 1, 40]]))
    assert white[40:90, 30:80].min() == 255
    assert (white.sum((0, 1)) == 50 * 50 * 255).all()


def test_identity_warp_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    assert np.array_equal(warp(image, np.eye(2, 3)), image)


def test_centre_crop_takes_the_largest_square():
    image = np.zeros((112, 140, 3), np.uint8)
    image[:, 14:126] = 200
    assert (centre_crop(image) == 200).all()
    assert (centre_crop(np.rot90(image, axes=(0, 1))) == 200).all()
    big = np.zeros((448, 300, 3), np.uint8)
    big[74:374] = 90
    assert centre_crop(big).shape == (112, 112, 3)
    assert (centre_crop(big) == 90).all()
