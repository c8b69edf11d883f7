import numpy as np
import pytest
import torch

from stages.transfer.unsb.bridge import BRIDGE, Bridge, apply
from stages.transfer.unsb.networks import Generator
from tests.transfer.official import randomised


def test_official_times_and_noise():
    assert (BRIDGE.steps, BRIDGE.tau) == (5, 0.01)
    np.testing.assert_allclose(BRIDGE.times(), [0, 0.5, 0.74, 0.86, 0.94, 1], atol=1e-15)
    for steps in (1, 2, 7):
        times = Bridge(steps).times()
        assert len(times) == steps + 1
        assert (times.diff() > 0).all()
        assert (times[0], times[-1]) == (0, 1)


class Recorder(torch.nn.Module):
    """A generator that sees the end at twice where the image stands."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.noise, self.seen = 2, []

    def forward(self, x, t, z):
        self.seen.append((x.clone(), t.tolist(), z.clone()))
        return 2 * x


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 5])
def test_the_way_by_hand(evaluations):
    """Number by number: x <- (1 - part) x + part end + sqrt(gap (1 - part) tau) noise."""
    generator, drawn = Recorder(), []

    def draw(*shape):
        drawn.append(torch.randn(2, *shape, dtype=torch.float64))
        return drawn[-1]

    start = x = torch.randn(2, 1, 1, 1, dtype=torch.float64)
    made = BRIDGE.cross(generator, start, evaluations, draw)
    times, noises = [0, 0.5, 0.74, 0.86, 0.94, 1], [noise for noise in drawn if noise.ndim == 4]
    for t in range(evaluations):
        if t:
            gap, rest = times[t] - times[t - 1], 1 - times[t - 1]
            deviation = (gap * (1 - gap / rest) * 0.01) ** 0.5
            x = (1 - gap / rest) * x + gap / rest * 2 * x + deviation * noises[t - 1]
        seen, number, _ = generator.seen[t]
        torch.testing.assert_close(seen, x)
        assert number == [t, t]
    torch.testing.assert_close(made, 2 * x)
    assert (len(generator.seen), len(noises)) == (evaluations, evaluations - 1)
    assert len({tuple(z.flatten().tolist()) for _, _, z in generator.seen}) == evaluations


def test_the_noise_is_that_of_a_brownian_bridge():
    """With the end known, where an image stands after t steps has variance tau time (1 - time)."""
    x, end = torch.zeros(20_000, 1, 1, 1), torch.zeros(20_000, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    for t in range(1, 6):
        x = BRIDGE.move(x, end, t, torch.randn(x.shape, generator=generator))
        time = BRIDGE.times()[t].item()
        assert x.var().item() == pytest.approx(0.01 * time * (1 - time), rel=0.05, abs=1e-12)


@pytest.mark.parametrize("evaluations", [0, 6])
def test_other_numbers_of_evaluations_are_refused(evaluations):
    with pytest.raises(ValueError, match=f"{evaluations} evaluations .* 1 to 5"):
        BRIDGE.cross(Recorder(), torch.zeros(1, 3, 4, 4), evaluations, torch.randn)


@pytest.fixture(scope="module")
def network():
    return randomised(Generator(4, 2))


@pytest.fixture
def shown():
    return np.random.default_rng(0).integers(0, 256, (4, 10, 13, 3), dtype=np.uint8)


@pytest.mark.parametrize("evaluations", [1, 3, 5])
def test_no_image_depends_on_those_beside_it(network, shown, evaluations):
    made = apply(network, shown, evaluations)
    assert (made.shape, made.dtype) == (shown.shape, np.uint8)
    for k in range(4):
        torch.manual_seed(k)
        assert np.array_equal(apply(network, shown[[k]], evaluations)[0], made[k])
    assert np.array_equal(apply(network, shown[[2, 0]], evaluations), made[[2, 0]])


def test_what_is_drawn_depends_on_seed_and_image(network, shown):
    made = apply(network, shown)
    assert not np.array_equal(apply(network, shown, seed=1), made)
    other = shown.copy()
    other[0, 0, 0, 0] ^= 1  # another image, and so other noise all over
    assert (apply(network, other)[0] != made[0]).mean() > 0.1
    assert np.array_equal(apply(network, other)[1:], made[1:])
