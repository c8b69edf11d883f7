import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.align.warp import ARCFACE_POINTS
from stages.knobs import ParamsError
from stages.transfer.stylegan import Inversion, Inverter, Projection, apply
from stages.transfer.stylegan.encoders import E4EEncoder, PSPEncoder
from tests.transfer.stylegan.tiny import generator, inverter

SHORT = Projection("w+", steps=3)


def pictures(n=3, side=24, seed=0):
    coarse = np.random.default_rng(seed).uniform(0, 255, (n, 4, 4, 3)).astype(np.float32)
    return np.stack([cv2.resize(image, (side, side)) for image in coarse]).astype(np.uint8)


def pixels(images):
    return F.avg_pool2d(images, 2).flatten(1) / 255


@pytest.mark.parametrize(("kind", "encoder"), [("psp", PSPEncoder), ("e4e", E4EEncoder)])
def test_encoding_written_out(kind, encoder):
    model, image = inverter(encoder), pictures(1)
    out = apply(model, image, Inversion(kind, face=8))
    x = cv2.resize(image[0], (32, 32), interpolation=cv2.INTER_LINEAR)
    x = torch.from_numpy(x).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        painted = model.generator.synthesis(model.encoder(x) + model.mean)
    painted = painted.view(1, 3, 8, 2, 8, 2).mean((3, 5))[0].permute(1, 2, 0).double().numpy()
    expected = np.floor((painted.clip(-1, 1) + 1) * 127.5)
    assert np.abs(out[0] - expected).max() <= 1
    assert (out[0] == expected).mean() > 0.99
    model.from_mean = False
    assert np.abs(apply(model, image, Inversion(kind, face=8)).astype(int) - out).mean() > 1


CASES = [
    Inversion("e4e"),
    Inversion("optimisation", Projection("w", steps=3)),
    Inversion("hybrid", SHORT, size=12),
]


@pytest.mark.parametrize("settings", CASES, ids=lambda settings: settings.inversion)
@pytest.mark.parametrize("aligned", [True, False])
def test_an_image_does_not_depend_on_those_beside_it(settings, aligned):
    model, images = inverter(), pictures(3)
    points = None if aligned else np.stack([ARCFACE_POINTS / 112 * 24 + shift for shift in range(3)])
    together = apply(model, images, settings, points, pixels, [5, 6, 7])
    for number in range(3):
        some = slice(number, number + 1)
        alone = apply(model, images[some], settings, None if aligned else points[some], pixels, [5 + number])
        np.testing.assert_array_equal(alone[0], together[number])
    side = settings.size or (16 if aligned else 24)
    assert together.shape == (3, side, side, 3)


def test_optimisation_comes_nearer_and_a_hybrid_starts_nearer():
    model = inverter()
    model.encoder.forward = lambda images: torch.zeros(len(images), 6, 8)
    torch.manual_seed(1)
    with torch.no_grad():
        w = model.generator.mapping(torch.randn(1, 8))
        image = model.generator.synthesis(model.generator.broadcast(w))
    model.mean = w[0] + 0.1  # what the encoder says is nearly right
    image = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()

    def error(kind, steps):
        settings = Inversion(kind, Projection("w+", steps=steps, noise_weight=10.0, exploration=0), face=16)
        return np.abs(apply(model, image, settings, perceptual=pixels).astype(int) - image).mean()

    short, long, hybrid = error("optimisation", 10), error("optimisation", 120), error("hybrid", 10)
    assert long < 0.6 * short
    assert hybrid < short


def test_seeds_decide_the_noise():
    model, image = inverter(), pictures(1)
    settings = Inversion("optimisation", SHORT)
    first, again, other = (apply(model, image, settings, perceptual=pixels, seeds=[seed]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    default = apply(model, image, settings, perceptual=pixels)
    np.testing.assert_array_equal(default, apply(model, image, settings, perceptual=pixels, seeds=[303]))


def test_what_cannot_be_inverted():
    model, images = inverter(), pictures(2)
    with pytest.raises(ValueError, match="'psp': the model's encoder is E4EEncoder"):
        apply(model, images, Inversion("psp"))
    with pytest.raises(ValueError, match="'optimisation' needs a perceptual network"):
        apply(model, images, Inversion("optimisation"))
    with pytest.raises(ValueError, match="'hybrid': the model has no encoder"):
        apply(Inverter(generator()), images, Inversion("hybrid", SHORT), perceptual=pixels)
    with pytest.raises(ValueError, match="relative to a mean"):
        apply(Inverter(model.generator, None, model.encoder), images)
    with pytest.raises(ValueError, match=r"\[n, 5, 2\] was expected"):
        apply(model, images, points=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="1 seeds for 2 images"):
        apply(model, images, seeds=[1])
    with pytest.raises(ValueError, match="uint8 RGB was expected"):
        apply(model, images / 255)


@pytest.mark.parametrize("knobs", [{"inversion": "x"}, {"face": 0}, {"size": 0}, {"batch": 0}])
def test_knobs_out_of_range(knobs):
    with pytest.raises(ParamsError, match=f"stylegan.{next(iter(knobs))}"):
        Inversion(**knobs)


def test_a_hybrid_is_in_w_plus():
    with pytest.raises(ParamsError, match=r"projection\.space is 'w'"):
        Inversion("hybrid")
