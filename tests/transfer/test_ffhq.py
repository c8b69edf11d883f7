import cv2
import numpy as np
import pytest

from stages.align.warp import ARCFACE_POINTS
from stages.transfer.ffhq import cut, put_back, resize, square_of


def official_quad(points):
    """The corners, as pSp's `align_all_parallel.py` computes them from eyes and mouth."""
    eye_left, eye_right, _, mouth_left, mouth_right = points
    eye_avg, mouth_avg = (eye_left + eye_right) * 0.5, (mouth_left + mouth_right) * 0.5
    eye_to_eye, eye_to_mouth = eye_right - eye_left, mouth_avg - eye_avg
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eye_avg + eye_to_mouth * 0.1
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_the_square_is_ffhqs(turn):
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = ARCFACE_POINTS @ spin.T + (3, 5)
    matrix = square_of(points, 256)
    for corner, expected in zip([(0, 0), (0, 256), (256, 256), (256, 0)], official_quad(points), strict=True):
        np.testing.assert_allclose(matrix[:, :2] @ (np.array(corner) - 0.5) + matrix[:, 2], expected, atol=1e-9)
    with pytest.raises(ValueError, match="span no square"):
        square_of(np.ones((5, 2)), 256)


def test_the_square_holds_an_aligned_crop():
    quad = official_quad(ARCFACE_POINTS)
    assert (quad.min(0) < 0).all()
    assert (quad.max(0) > 112).all()


def test_cutting_and_putting_back_is_nearly_nothing():
    image = cv2.resize(np.random.default_rng(0).uniform(0, 255, (4, 4, 3)).astype(np.float32), (112, 112)).astype(
        np.uint8
    )
    for size in (128, 256, 512):
        face = cut(image, ARCFACE_POINTS, size)
        assert face.shape == (size, size, 3)
        back = put_back(image, ARCFACE_POINTS, face).astype(int)
        assert np.abs(back - image).mean() < 1.0
        assert np.abs(back - image).max() < 12


def test_only_the_square_changes():
    image = np.zeros((200, 200, 3), np.uint8)
    points = ARCFACE_POINTS / 2 + 50
    out = put_back(image, points, np.full((64, 64, 3), 255, np.uint8))
    low, high = official_quad(points).min(0), official_quad(points).max(0)
    assert (out[int(low[1]) + 3 : int(high[1]) - 3, int(low[0]) + 3 : int(high[0]) - 3] == 255).all()
    assert not out[: int(low[1]) - 2].any()
    assert not out[:, int(high[0]) + 3 :].any()


def test_what_is_painted_finer_than_the_image_is_averaged():
    board = np.indices((1024, 1024)).sum(0) % 2 * 255
    face = board.astype(np.uint8)[..., None].repeat(3, 2)
    out = put_back(np.zeros((112, 112, 3), np.uint8), ARCFACE_POINTS, face).astype(int)
    assert np.abs(out - 127.5).max() < 20


def test_outside_of_the_image_it_is_mirrored():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    matrix = square_of(ARCFACE_POINTS, 256)
    face = cut(image, ARCFACE_POINTS, 256)
    mirrored = np.pad(image, ((112, 112), (112, 112), (0, 0)), "reflect").astype(float)
    for u, v in [(3, 4), (128, 250), (200, 2), (254, 254)]:
        x, y = matrix @ (u, v, 1) + 112
        i, j = int(y), int(x)
        weights = np.outer([1 - (y - i), y - i], [1 - (x - j), x - j])
        expected = (weights[..., None] * mirrored[i : i + 2, j : j + 2]).sum((0, 1))
        assert np.abs(face[v, u] - expected).max() < 5  # OpenCV interpolates in steps of 1/32 px


def test_without_points_the_image_is_the_square():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cut(image, None, 8), image)
    np.testing.assert_allclose(resize(image, 4), image.reshape(4, 2, 4, 2, 3).mean((1, 3)), atol=0.51)
    assert cut(image, None, 16).shape == (16, 16, 3)
