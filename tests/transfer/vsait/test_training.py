import numpy as np
import torch

from stages.transfer.vsait.features import RandomFilters
from stages.transfer.vsait.networks import VSAIT, load_official
from stages.transfer.vsait.training import VSAITTraining, halving
from tests.transfer.learning import assert_resumes, images, run
from tests.transfer.vsait.plain import plain

CHANNELS = (4, 4, 6, 6, 6)


def make(**options):
    return VSAITTraining(VSAIT(4, 3, 24, 8, CHANNELS), RandomFilters(CHANNELS), **options)


def test_resumes_to_the_same_bits():
    assert_resumes(lambda: make(factor=lambda step: 0.5**step))


def test_official_groups_and_hyperparameters():
    training = make()
    network = training.network
    (first,), (second,) = training.of_generator.param_groups, training.of_discriminator.param_groups
    learned = {*network.g_net.parameters(), *network.g_net_map.parameters()}
    assert set(first["params"]) == learned
    assert set(second["params"]) == set(network.d_net.parameters())
    assert (first["lr"], second["lr"]) == (1e-4, 4e-4)
    for group in (first, second):
        assert (group["betas"], group["weight_decay"], group["amsgrad"]) == ((0.0, 0.9), 1e-4, False)
    assert [halving(step) for step in (0, 99_999, 100_000, 199_999, 200_000)] == [1, 1, 0.5, 0.5, 0.25]


def test_a_step_against_a_plain_one():
    torch.manual_seed(0)
    training = make(generator_rate=1e-2, discriminator_rate=4e-2)
    training.network.double(), training.features.double()
    networks, step = plain(training)
    for number in range(3):
        source, target = images(2 * number).double(), images(2 * number + 1).double()
        losses = training.step(source, target)
        for name, value in step(source, target).items():
            torch.testing.assert_close(losses[name], value.detach(), msg=name)
    shown, vectors = images(99).double(), torch.randn(1, 24, 2, 2, dtype=torch.float64)
    for name, given in (("g_net", shown), ("d_net", vectors), ("g_net_map", vectors)):  # biases before a norm are noise
        one, two = training.network.get_submodule(name), networks[name]
        torch.testing.assert_close(one(given), two(given), rtol=1e-6, atol=1e-6, msg=name)


def test_what_is_made_comes_to_hold_what_the_source_holds():
    torch.manual_seed(0)
    training = make(generator_rate=2e-3, discriminator_rate=2e-3)
    losses = [training.step(images(k), images(k + 1000)) for k in range(40)]
    assert np.mean([one["vsa"] for one in losses[-5:]]) < 0.8 * losses[0]["vsa"]


def test_directions_stay_and_features_learn_nothing():
    training = make()
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    filters = [x.clone() for x in training.features.buffers()]
    run(training, range(2))
    changed = {
        name.split(".")[0] for name, x in training.network.state_dict().items() if not torch.equal(x, before[name])
    }
    assert changed == {"g_net", "d_net", "g_net_map"}
    assert all(torch.equal(x, y) for x, y in zip(training.features.buffers(), filters, strict=True))


def test_what_is_saved_is_official_and_translates_alike(tmp_path):
    training = make()
    run(training, range(1), n=1)
    training.save(tmp_path)
    loaded = load_official(tmp_path / "vsait.ckpt")
    shown = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    again = VSAITTraining(loaded, RandomFilters(CHANNELS))
    assert np.array_equal(training.translate(shown), again.translate(shown))
