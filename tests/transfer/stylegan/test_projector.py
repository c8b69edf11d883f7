import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.knobs import ParamsError
from stages.transfer.stylegan.projector import Projection, project, self_correlation, style_statistics
from tests.transfer.stylegan.tiny import generator


def pixels(images):
    """In the place of a perceptual network: the image in small steps."""
    return F.avg_pool2d(images, 2).flatten(1) / 255


def targets(network, n=2, seed=5):
    torch.manual_seed(seed)
    with torch.no_grad():
        return network(torch.randn(n, 8))


def test_the_official_schedule_written_out():
    settings = Projection()
    rates = [settings.rate_at(step) for step in range(1000)]
    for step in (0, 1, 25, 49, 50, 400, 749, 750, 900, 999):
        t = step / 1000
        ramp = 0.5 - 0.5 * math.cos(min(1.0, (1 - t) / 0.25) * math.pi)
        assert rates[step] == pytest.approx(0.1 * ramp * min(1.0, t / 0.05))
        assert settings.exploration_at(step) == pytest.approx(0.05 * max(0, 1 - t / 0.75) ** 2)
    assert rates[0] == 0
    assert max(rates) == rates[500] == pytest.approx(0.1)
    assert rates[-1] < 1e-5
    assert settings.exploration_at(750) == 0


def test_style_statistics_are_numpys():
    network = generator()
    mean, deviation = style_statistics(network, samples=500)
    z = np.random.RandomState(123).randn(500, 8).astype(np.float32)
    with torch.no_grad():
        w = network.mapping(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(mean, w.mean(0), atol=1e-6)
    assert deviation == pytest.approx(math.sqrt(((w - w.mean(0)) ** 2).sum() / 500), rel=1e-5)


def test_self_correlation_by_loops():
    noise = [torch.randn(2, 1, side, side, dtype=torch.float64) for side in (4, 16)]
    total = 0.0
    for image in noise:
        for sample in image[:, 0].numpy():
            while True:
                side = len(sample)
                across = sum(sample[i, j] * sample[i, j - 1] for i in range(side) for j in range(side)) / side**2
                down = sum(sample[i, j] * sample[i - 1, j] for i in range(side) for j in range(side)) / side**2
                total += across**2 + down**2
                if side <= 8:
                    break
                sample = sample.reshape(side // 2, 2, side // 2, 2).mean((1, 3))
    assert float(self_correlation(noise)) == pytest.approx(total)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_projection_finds_what_the_generator_painted(space):
    network = generator()
    images = targets(network)
    settings = Projection(space, steps=120, noise_weight=10.0)
    styles, noise = project(network, images, pixels, settings)
    mean, _ = style_statistics(network)
    with torch.no_grad():
        found = network.synthesis(styles, noise)
        start = network.synthesis(network.broadcast(mean[None].expand(2, -1)))
    before, after = ((image - images).square().mean((1, 2, 3)) for image in (start, found))
    assert (after < 0.15 * before).all()
    assert (styles.std(1).max() > 1e-4) == (space == "w+")
    assert all(parameter.grad is None for parameter in network.parameters())
    for image in noise:
        torch.testing.assert_close(image.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(image.square().mean((1, 2, 3)), torch.ones(2), atol=1e-4, rtol=0)


def test_one_step_written_out():
    """The second step of two: Adam's first has rate 0 and moves nothing, noise is drawn image, layers, steps."""
    network, settings = generator().double(), Projection(steps=2, noise_weight=0.5, ramp_up=0.5)
    images = targets(network.float(), 1).double()
    network.double()
    styles, _ = project(network, images, pixels, settings, seeds=[7])
    mean, deviation = style_statistics(network)
    draw = torch.Generator().manual_seed(7)
    noise = [torch.randn(1, side, side, generator=draw).double()[None] for side in (4, 8, 8, 16, 16)]
    w, moments, squares = mean.clone(), torch.zeros(8).double(), torch.zeros(8).double()
    noise_moments = [(torch.zeros_like(image), torch.zeros_like(image)) for image in noise]
    for step in range(2):
        shake = torch.randn(1, 8, generator=draw).double()[0] * deviation * settings.exploration_at(step)
        w = w.requires_grad_()
        noise = [image.requires_grad_() for image in noise]
        painted = network.synthesis(network.broadcast((w + shake)[None]), noise)
        distance = (pixels((painted + 1) * 127.5) - pixels((images + 1) * 127.5)).square().sum()
        loss = distance + 0.5 * self_correlation(noise)
        gradients = torch.autograd.grad(loss, [w, *noise])

        def adam(value, gradient, moments, squares, step=step):
            moments.mul_(0.9).add_(0.1 * gradient)
            squares.mul_(0.999).add_(0.001 * gradient**2)
            move = moments / (1 - 0.9 ** (step + 1)) / ((squares / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            return (value - settings.rate_at(step) * move).detach()

        w = adam(w, gradients[0], moments, squares)
        noise = [adam(n, g, *m) for n, g, m in zip(noise, gradients[1:], noise_moments, strict=True)]
        noise = [n - n.mean() for n in noise]
        noise = [n / n.square().mean().sqrt() for n in noise]
    assert settings.rate_at(1) > 0
    torch.testing.assert_close(styles[0, 3], w)


def test_an_image_is_projected_for_itself():
    network = generator().double()
    images = targets(network.float(), 3).double()
    network.double()
    settings = Projection("w+", steps=8)
    together, noise = project(network, images, pixels, settings, seeds=[1, 2, 3])
    alone, own = project(network, images[1:2], pixels, settings, seeds=[2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(noise[2][1:2], own[2], rtol=1e-7, atol=1e-9)
    other, _ = project(network, images[1:2], pixels, settings, seeds=[4])
    assert not torch.allclose(other, alone, atol=1e-4)


def test_large_images_are_compared_in_256_px():
    from stages.transfer.stylegan.projector import _features

    seen = []
    _features(torch.zeros(1, 3, 512, 512), lambda images: seen.append(images))
    assert seen[0].shape == (1, 3, 256, 256)
    assert float(seen[0].mean()) == 127.5
    _features(torch.zeros(1, 3, 64, 64), lambda images: seen.append(images))
    assert seen[1].shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    "knobs", [{"space": "z"}, {"steps": 0}, {"rate": 0}, {"ramp_up": 0}, {"exploration": -1}, {"noise_weight": -1}]
)
def test_knobs_out_of_range(knobs):
    with pytest.raises(ParamsError, match=f"projection.{next(iter(knobs))}"):
        Projection(**knobs)


def test_wrong_targets_and_starts():
    network = generator()
    with pytest.raises(ValueError, match=r"\[n, 3, 16, 16\] was expected"):
        project(network, torch.zeros(1, 3, 8, 8), pixels, Projection())
    with pytest.raises(ValueError, match=r"w\+"):
        project(network, torch.zeros(1, 3, 16, 16), pixels, Projection(), start=torch.zeros(1, 6, 8))
