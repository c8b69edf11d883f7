import math

import numpy as np
import pytest
import torch

from stages.transfer.cut import Discriminator, ResnetGenerator, load_part
from stages.transfer.decent.networks import PatchDensityEstimator, channels, load_official
from stages.transfer.decent.training import DecentTraining
from tests.transfer.decent.plain import plain
from tests.transfer.learning import assert_resumes, images, run


def make(**options):
    generator = ResnetGenerator(4, 2)
    densities = tuple(PatchDensityEstimator(channels(generator), hidden=3) for _ in range(2))
    return DecentTraining(generator, Discriminator(4), densities, **{"patches": 20} | options)


def test_resumes_to_the_same_bits():
    assert_resumes(lambda: make(factor=lambda step: 0.5**step))


def test_official_weights_and_rates():
    densities = (PatchDensityEstimator([3]), PatchDensityEstimator([3]))
    training = DecentTraining(ResnetGenerator(4, 2), Discriminator(4), densities)
    assert training.weights == {"gan": 1, "identity": 10, "variance": 0.01}
    assert training.patches == 256
    rates = {name: part.param_groups[0]["lr"] for name, part in training.parts.items() if name.startswith("optimiser")}
    assert rates == {"optimiser_G": 2e-4, "optimiser_D": 2e-4, "optimiser_F": 1e-3}


@pytest.mark.parametrize("n", [1, 3])
def test_a_step_against_a_plain_one(n):
    torch.manual_seed(0)
    training = make()
    for network in training.networks.values():
        network.double()
    networks, step = plain(training)
    for number in range(3):
        source, target = images(2 * number, n).double(), images(2 * number + 1, n).double()
        losses = training.step(source, target, torch.Generator().manual_seed(number))
        for name, value in step(source, target, number).items():
            torch.testing.assert_close(losses[name], value.detach(), rtol=1e-6, atol=1e-8, msg=name)
    shown = images(99).double()
    for one, two in ((training.generator, networks["G"]), (training.discriminator, networks["D"])):
        torch.testing.assert_close(one(shown), two(shown), rtol=1e-6, atol=1e-6)
    for one, two in zip(training.densities[1].parameters(), networks["F_B"].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


def test_density_estimators_come_down_to_the_entropies_of_their_domains():
    """Of normal features, whose entropy is known: in nats, 3 / 2 log(2 pi e sigma^2)."""
    torch.manual_seed(0)
    training = make(patches=64)
    training.of_densities.param_groups[0]["lr"] = 0.03
    deviations = (0.5, 2.0)
    of_source, of_target = ([torch.randn(4, 3, 8, 8) * deviation] for deviation in deviations)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(200):
        training.densities_step(of_source, of_target, drawn)
    for density, features, deviation in zip(training.densities, (of_source, of_target), deviations, strict=True):
        entropy = 1.5 * math.log(2 * math.pi * math.e * deviation**2)
        assert -density(features, [torch.arange(64)])[0].mean().item() == pytest.approx(entropy, abs=0.4)


def test_small_feature_maps_give_fewer_patches():
    training = make(patches=256)
    assert np.isfinite(list(run(training, range(1))[0].values())).all()  # 64 places in the deepest layers


def test_what_is_saved_is_official(tmp_path):
    training = make()
    run(training, range(1), n=1)
    training.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"latest_net_{name}.pth" for name in ("G", "F_A", "F_B", "D")}
    again = make()
    again.generator.load_state_dict(load_official(tmp_path / "latest_net_G.pth").state_dict())
    for name, network in again.networks.items():
        load_part(tmp_path / f"latest_net_{name}.pth", network)
        for key, value in network.state_dict().items():
            assert torch.equal(value, training.networks[name].state_dict()[key])
    shown = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert np.array_equal(training.translate(shown), again.translate(shown))
