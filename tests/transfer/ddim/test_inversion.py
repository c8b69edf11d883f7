import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from stages.align.warp import ARCFACE_POINTS
from stages.knobs import ParamsError
from stages.transfer.ddim import Inversion, apply, load_prior, round_trip
from stages.transfer.ddim.inversion import denoise, invert
from tests.transfer.ddim.tiny import gaussian, write_prior


def pictures(n=3, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture
def latents():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def alphas():
    """The linear schedule of DDPM, by its definition."""
    product, result = 1.0, []
    for step in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        result.append(product)
    return result


@pytest.mark.parametrize(("steps", "depth", "gone"), [(10, 1.0, 10), (10, 0.5, 5), (50, 0.3, 15), (4, 0.01, 1)])
def test_both_ways_by_loops(latents, steps, depth, gone):
    """The equation of the docstring, at times 0, T/steps, 2 T/steps, …; before the first all is signal."""
    prior, settings = gaussian(), Inversion(steps, depth)
    times, share = [number * (1000 // steps) for number in range(gone)], alphas()
    assert settings.gone == gone

    def move(x, time, before, after):
        noise = prior.unet(x, time).sample
        clean = (x - (1 - before) ** 0.5 * noise) / before**0.5
        return after**0.5 * clean + (1 - after) ** 0.5 * noise

    levels = [1.0, *(share[time] for time in times)]
    x = latents
    for number, time in enumerate(times):
        x = move(x, time, levels[number], levels[number + 1])
    noised = invert(prior, latents, settings)
    torch.testing.assert_close(noised, x, rtol=1e-5, atol=1e-5)  # the scheduler's ᾱ are float32
    for number, time in reversed(list(enumerate(times))):
        x = move(x, time, levels[number + 1], levels[number])
    torch.testing.assert_close(denoise(prior, noised, settings), x, rtol=1e-5, atol=1e-5)


def test_small_steps_follow_the_exact_path(latents):
    """Deviation from the mean in units of the spread stays what it is: at the end it is the noise."""
    prior = gaussian()
    exact = (latents - 0.2) / 0.3
    errors = []
    for steps in (10, 100, 1000):
        noised = invert(prior, latents, Inversion(steps))
        share = torch.tensor(alphas()[1000 - 1000 // steps])
        expected = share.sqrt() * 0.2 + (share * 0.09 + 1 - share).sqrt() * exact
        errors.append(float((noised - expected).abs().mean()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.01


def test_the_round_trip_improves_with_steps(latents):
    prior = gaussian()
    errors = []
    for steps in (5, 20, 100, 500):
        settings = Inversion(steps)
        errors.append(float((denoise(prior, invert(prior, latents, settings), settings) - latents).abs().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]
    images = np.clip(np.random.default_rng(0).normal(150, 40, (2, 8, 8, 3)), 0, 255).astype(np.uint8)
    prior = gaussian(dtype=torch.float32)
    few, many = round_trip(prior, images, Inversion(5)), round_trip(prior, images, Inversion(200))
    assert few.shape == (2,)
    assert (many > few + 5).all()
    error = (apply(prior, images, Inversion(5)).astype(float)[1] - images[1]) ** 2
    assert few[1] == pytest.approx(20 * np.log10(255 / np.sqrt(error.mean())))


def test_less_depth_changes_less(latents):
    prior = gaussian()
    errors = []
    for depth in (0.1, 0.3, 1.0):
        settings = Inversion(20, depth)
        noised = invert(prior, latents, settings)
        errors.append(float((denoise(prior, noised, settings) - latents).abs().mean()))
    assert errors == sorted(errors)


@pytest.mark.parametrize("latent", ["", "vae", "vqvae"])
def test_an_image_does_not_depend_on_those_beside_it(tmp_path, latent):
    prior, settings = load_prior(write_prior(tmp_path, latent)), Inversion(3, batch=4)
    images = pictures(4, 12)
    together = apply(prior, images, settings)
    assert together.shape == (4, prior.size, prior.size, 3)
    assert prior.size == (16 if latent else 8)
    np.testing.assert_array_equal(apply(prior, images[[3, 1]], settings), together[[3, 1]])
    np.testing.assert_array_equal(apply(prior, images, settings), together)


def test_the_networks_precision(tmp_path):
    prior, seen = load_prior(write_prior(tmp_path)), []
    prior.unet.conv_in.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype))
    )
    exact = apply(prior, pictures(1), Inversion(2)).astype(int)
    assert set(seen) == {(torch.float32, torch.float32)}
    seen.clear()
    half = apply(prior, pictures(1), Inversion(2, precision="bf16")).astype(int)
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert np.abs(exact - half).mean() < 3


def test_a_learned_variance_is_left_out(tmp_path):
    prior = load_prior(write_prior(tmp_path, out_channels=6))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(prior.predict(x, torch.tensor(7)), prior.unet(x, 7).sample[:, :3])
    assert apply(prior, pictures(1), Inversion(2)).shape == (1, 8, 8, 3)


def test_size_and_points():
    prior, images = gaussian(dtype=torch.float32, size=128), pictures(2, 112)
    images = np.stack([np.full_like(image, 100 + 20 * number) for number, image in enumerate(images)])
    points = np.stack([ARCFACE_POINTS] * 2)
    out = apply(prior, images, Inversion(100), points)
    assert out.shape == images.shape
    assert np.abs(out.astype(int) - images).max() <= 8
    assert apply(prior, images, Inversion(2, size=20), points).shape == (2, 20, 20, 3)
    assert apply(prior, images, Inversion(2)).shape == (2, 128, 128, 3)
    with pytest.raises(ValueError, match=r"\[n, 5, 2\] was expected"):
        apply(prior, images, points=points[:1])
    with pytest.raises(ValueError, match="uint8 RGB was expected"):
        apply(prior, images / 255)


def test_other_schedules_go_both_ways_over_the_same_times():
    for knobs in ({}, {"steps_offset": 1, "set_alpha_to_one": False}, {"timestep_spacing": "trailing"}):
        prior = gaussian()
        prior.scheduler = dict(DDIMScheduler(clip_sample=True, thresholding=True, **knobs).config)
        inverse, forward = prior.schedulers(10)
        assert inverse.timesteps.tolist() == forward.timesteps.tolist()[::-1]
        assert inverse.timesteps[-1] == (999 if knobs.get("timestep_spacing") else 900 + knobs.get("steps_offset", 0))
        assert not inverse.config.clip_sample
        assert not forward.config.clip_sample
        assert not forward.config.thresholding
        noise, x = torch.randn(2, 1, 3, 4, 4) * 3
        for time in inverse.timesteps.tolist():
            there = inverse.step(noise, time, x, return_dict=False)[0]
            back = forward.step(noise, time, there, return_dict=False)[0]
            torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "knobs", [{"steps": 0}, {"depth": 0.0}, {"depth": 1.1}, {"precision": "x"}, {"size": 0}, {"batch": 0}]
)
def test_knobs_out_of_range(knobs):
    with pytest.raises(ParamsError, match=f"ddim.{next(iter(knobs))}"):
        Inversion(**knobs)


def test_more_steps_than_trained():
    with pytest.raises(ValueError, match="1000"):
        apply(gaussian(dtype=torch.float32), pictures(1), Inversion(1001))
