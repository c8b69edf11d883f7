import copy

import numpy as np
import pytest
import torch

from stages.transfer.cut import load_part
from stages.transfer.unsb.networks import Discriminator, Generator, PatchProjector, channels, load_official
from stages.transfer.unsb.training import UNSBTraining
from tests.transfer.learning import assert_resumes, images, run
from tests.transfer.unsb.plain import plain


def make(corrected=False, **options):
    generator = Generator(4, 2, corrected)
    projector = PatchProjector(channels(generator), size=8)
    return UNSBTraining(generator, Discriminator(4), Discriminator(4, 12), projector, **{"patches": 20} | options)


def test_resumes_to_the_same_bits():
    assert_resumes(lambda: make(factor=lambda step: 0.5**step))


def test_official_weights_and_rates():
    training = make(patches=256)
    assert training.weights == {"gan": 1, "sb": 1, "contrast": 1}
    for name in ("G", "F", "D", "E"):
        (group,) = training.parts[f"optimiser_{name}"].param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.5, 0.999), 0)
        assert group["params"] == list(training.networks[name].parameters())


@pytest.mark.parametrize(("n", "corrected"), [(1, False), (3, False), (2, True)])
def test_a_step_against_a_plain_one(n, corrected):
    torch.manual_seed(0)
    training = make(corrected)
    for network in training.networks.values():
        network.double()
        for weight in network.parameters():
            torch.nn.init.normal_(weight, 0, 0.2)  # so large that the steps' number tells
    networks, step = plain(training)
    for number in range(4):  # of which three begin at different steps of the bridge
        source, target, second = (images(3 * number + k, n).double() for k in range(3))
        losses = training.step(source, target, torch.Generator().manual_seed(number), second)
        for name, value in step(source, target, number, second).items():
            torch.testing.assert_close(losses[name], value.detach(), rtol=1e-6, atol=1e-8, msg=name)
    shown, t, z = images(99, 1).double(), torch.tensor([3]), torch.ones(1, 16).double()
    torch.testing.assert_close(training.generator(shown, t, z), networks["G"](shown, t, z), rtol=1e-6, atol=1e-6)
    pair = torch.cat([shown, -shown], 1)
    torch.testing.assert_close(training.energy(pair, t, pair), networks["E"](pair, t, pair), rtol=1e-6, atol=1e-6)


def test_without_second_images_the_batch_serves_itself():
    def stepped(n, second):
        torch.manual_seed(0)
        training = make()
        return training.step(images(1, n), images(2, n), torch.Generator().manual_seed(3), second)

    one, three = images(1, 1), images(1, 3)
    assert stepped(3, None) == stepped(3, three[[2, 0, 1]])
    assert stepped(1, None) == stepped(1, one.flip(3))
    assert stepped(3, None) != stepped(3, three)


def test_dead_weights_stay_and_all_others_move():
    torch.manual_seed(0)
    training = make()
    before = copy.deepcopy(training.state_dict())
    run(training, range(2))
    for name, network in training.networks.items():
        for key, value in network.named_parameters():
            dead = name == "G" and any(
                part in key.split(".") for part in ("conv_block", "Dense_time", "style", "time_embed")
            )
            assert torch.equal(value, before[name][key]) == dead, (name, key)


def test_what_is_saved_is_official_and_translates_alike(tmp_path):
    training = make()
    run(training, range(1), n=1)
    training.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"latest_net_{name}.pth" for name in "GFDE"}
    again = make()
    for name, network in again.networks.items():
        load_part(tmp_path / f"latest_net_{name}.pth", network)
    loaded = load_official(tmp_path / "latest_net_G.pth")
    assert all(torch.equal(x, again.generator.state_dict()[name]) for name, x in loaded.state_dict().items())
    shown = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert np.array_equal(training.translate(shown), again.translate(shown))
