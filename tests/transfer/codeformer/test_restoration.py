import cv2
import numpy as np
import pytest
import torch
from torch import nn

from stages.align.warp import ARCFACE_POINTS
from stages.knobs import ParamsError
from stages.transfer.codeformer import Restoration, apply
from stages.transfer.codeformer.restoration import FFHQ_POINTS, is_gray, match_colour, paste, to_template
from tests.transfer.codeformer.tiny import tiny


def pictures(n=3, h=20, w=20, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (n, 4, 4, 3)).astype(np.float32)
    return np.stack([cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR) for image in coarse]).astype(np.uint8)


class Same(nn.Module):
    """In the place of the network: gives its input back, and remembers what it was asked for."""

    def __init__(self, size):
        super().__init__()
        self.size, self.asked = size, []
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, w, adain):
        self.asked.append((x, w, adain))
        return x, None, None


def test_the_aligned_path_written_out():
    network, images = tiny(), pictures(2)
    restored = apply(network, images, Restoration(w=0.3))
    for image, out in zip(images, restored, strict=True):
        face = cv2.resize(image, (32, 32), interpolation=cv2.INTER_LINEAR)
        x = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            y = network(x, 0.3, adain=True)[0][0].permute(1, 2, 0).double().numpy()
        expected = (y.clip(-1, 1) + 1) / 2 * 255
        assert np.abs(out - expected).max() <= 0.52  # float32
    assert restored.dtype == np.uint8
    assert restored.std() > 10


def test_official_defaults_reach_the_network():
    network = Same(32)
    apply(network, pictures(1))
    (x, w, adain), *rest = network.asked
    assert (w, adain, rest) == (0.5, True, [])
    assert x.shape == (1, 3, 32, 32)
    assert (float(x.min()) >= -1, float(x.max()) <= 1) == (True, True)
    apply(network, pictures(1), Restoration(w=0, adain=False))
    assert network.asked[-1][1:] == (0, False)


@pytest.mark.parametrize("points", [None, ARCFACE_POINTS / 112 * 20])
def test_an_image_does_not_depend_on_those_beside_it(points):
    network, images = tiny(), pictures(4)
    several = None if points is None else np.stack([points] * 4)
    together = apply(network, images, Restoration(batch=4), several)
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(apply(network, images[order], Restoration(batch=3), several), together[order])
    for number in range(4):
        one = apply(network, images[number : number + 1], points=None if several is None else several[:1])
        np.testing.assert_array_equal(one[0], together[number])


def test_w_changes_the_image():
    network, images = tiny(), pictures(1)
    low, high = (apply(network, images, Restoration(w=w)).astype(int) for w in (0, 1))
    assert np.abs(low - high).mean() > 1


@pytest.mark.parametrize("interpolation", ["area", "linear", "lanczos"])
def test_output_size(interpolation):
    network, images = Same(32), pictures(2)
    out = apply(network, images, Restoration(size=8, interpolation=interpolation))
    full = apply(network, images)
    assert full.shape == (2, 32, 32, 3)
    kind = getattr(cv2, {"area": "INTER_AREA", "linear": "INTER_LINEAR", "lanczos": "INTER_LANCZOS4"}[interpolation])
    np.testing.assert_array_equal(out[1], cv2.resize(full[1], (8, 8), interpolation=kind))
    points = np.stack([ARCFACE_POINTS / 112 * 20] * 2)
    assert apply(network, images, Restoration(size=8), points).shape == (2, 8, 8, 3)
    assert apply(network, pictures(2, 20, 30), Restoration(upscale=3), points).shape == (2, 96, 144, 3)


def test_gray_by_loops():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 9, 1), dtype=np.uint8).repeat(3, 2)
    assert is_gray(image, 0)
    coloured = image.astype(int)
    coloured[..., 0] += rng.integers(-4, 5, (9, 9))
    coloured = coloured.clip(0, 255).astype(np.uint8)
    r, g, b = (coloured[..., channel].astype(float) for channel in range(3))
    spread = ((r - g).var() + (g - b).var() + (b - r).var()) / 3
    assert 1 < spread < 10
    assert is_gray(coloured, spread + 1e-9)
    assert not is_gray(coloured, spread - 1e-9)
    assert not is_gray(pictures(1)[0], 10)
    shifted = (image // 2 + np.array([0, 40, 90])).astype(np.uint8)  # a tint has no variance
    assert is_gray(shifted, 0)


def test_a_gray_image_stays_gray_and_keeps_its_tone():
    network = tiny()
    gray = pictures(1).mean(3, keepdims=True).astype(np.uint8).repeat(3, 3)
    out = apply(network, gray)[0].astype(int)
    face = cv2.resize(gray[0], (32, 32), interpolation=cv2.INTER_LINEAR)
    assert np.ptp(out, axis=2).max() == 0
    assert abs(out.mean() - face.mean()) < 3
    ignored = apply(network, gray, Restoration(gray_threshold=-1))[0].astype(int)
    assert np.ptp(ignored, axis=2).max() > 5


def test_gray_is_known_before_the_image_is_enlarged_and_framed():
    gray = pictures(1).mean(3, keepdims=True).astype(np.uint8).repeat(3, 3)
    points = (ARCFACE_POINTS / 112 * 20)[None]
    out = apply(tiny(), gray, points=points)[0].astype(int)
    assert np.ptp(out[20:44, 20:44], axis=2).mean() < 3  # the frame has a tint
    ignored = apply(tiny(), gray, Restoration(gray_threshold=-1), points)[0].astype(int)
    assert np.ptp(ignored[20:44, 20:44], axis=2).mean() > 10


def test_colour_matching():
    rng = np.random.default_rng(0)
    content, style = rng.normal(100, 20, (40, 40, 3)), rng.normal((90, 120, 150), (5, 10, 15), (40, 40, 3))
    out = match_colour(content, style)
    np.testing.assert_allclose(out.mean((0, 1)), style.mean((0, 1)), atol=1e-9)
    np.testing.assert_allclose(out.std((0, 1)), style.std((0, 1)), rtol=1e-6)
    again = match_colour(out, content)
    np.testing.assert_allclose(again, content, atol=1e-4)
    flat = match_colour(np.full((4, 4, 3), 7.0), style)  # nothing to scale
    np.testing.assert_allclose(flat, np.broadcast_to(style.mean((0, 1)), flat.shape))


def test_the_template_is_met_in_spite_of_a_wild_point():
    angle, scale = 0.3, 0.21
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = FFHQ_POINTS @ turn.T + (12, -7)
    for source in (points, np.vstack([points[:4], [400.0, -300.0]])):
        matrix = to_template(source, FFHQ_POINTS)
        np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], FFHQ_POINTS, atol=0.05)
    with pytest.raises(ValueError, match="no similarity"):
        to_template(np.zeros((5, 2)), FFHQ_POINTS)


def test_the_unaligned_path_brings_the_face_to_the_template():
    network = Same(512)
    points = FFHQ_POINTS * 0.22 + (-1.3, 2.6)
    y, x = np.mgrid[:112, :112]
    spots = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8) for u, v in points)
    image = (90 + 150 * spots[..., None].repeat(3, 2)).round().clip(0, 255).astype(np.uint8)
    apply(network, image[None], Restoration(upscale=1), points[None])
    face = network.asked[0][0][0].permute(1, 2, 0).numpy()
    for x, y in FFHQ_POINTS:
        bright = face[round(y) - 20 : round(y) + 21, round(x) - 20 : round(x) + 21].mean(2)
        bright = bright - bright.min()
        assert bright[20, 20] > 0.9, (x, y)
        centre = [(bright * grid).sum() / bright.sum() for grid in np.mgrid[-20:21, -20:21]]
        assert np.hypot(*centre) < 0.8, (x, y)
    corner = (face[0, 0] + 1) * 127.5  # outside the crop
    np.testing.assert_allclose(corner, (132, 133, 135), atol=0.01)


def test_pasting():
    image, face = np.full((80, 80, 3), 50, np.uint8), np.full((40, 40, 3), 200, np.uint8)
    matrix = np.array([[1.0, 0, -20], [0, 1.0, -20]])
    for upscale in (1, 2):
        out = paste(image, face, matrix, upscale).astype(int)
        assert out.shape == (80 * upscale, 80 * upscale, 3)
        assert (out[40 * upscale, 40 * upscale] >= 199).all()
        assert (out[: 18 * upscale] == 50).all()
        assert (out[:, 62 * upscale :] == 50).all()
        ramp = out[40 * upscale, 15 * upscale : 40 * upscale, 0]
        assert (np.diff(ramp) >= -1).all()
        assert len(set(ramp.tolist())) > 3  # a soft edge


def test_a_network_that_changes_nothing_changes_nothing():
    network, image = Same(128), pictures(1, 112, 112)
    out = apply(network, image, Restoration(upscale=1), ARCFACE_POINTS[None])[0].astype(int)
    expected = cv2.resize(image[0], (128, 128), interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(out - expected).mean() < 1.5


@pytest.mark.parametrize(
    "knobs",
    [{"w": 1.1}, {"w": -0.1}, {"upscale": 0}, {"size": 0}, {"batch": 0}, {"precision": "x"}, {"interpolation": "x"}],
)
def test_knobs_out_of_range(knobs):
    with pytest.raises(ParamsError, match=f"codeformer.{next(iter(knobs))}"):
        Restoration(**knobs)


def test_what_are_no_images():
    network = Same(32)
    for images in (np.zeros((2, 8, 8), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8 RGB was expected"):
            apply(network, images)
    with pytest.raises(ValueError, match=r"\[n, 5, 2\] was expected"):
        apply(network, pictures(2), points=np.zeros((1, 5, 2)))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(precision, dtype):
    network = Same(32)
    seen = []
    network.forward = lambda x, w, adain: (seen.append(x @ x), (x, None, None))[1]
    apply(network, pictures(1), Restoration(precision=precision))
    assert seen[0].dtype == dtype
