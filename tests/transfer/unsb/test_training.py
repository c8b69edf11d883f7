import copy

import numpy as np
import pytest
import torch

from stages.transfer.cut import load_part
from stages.transfer.unsb.bridge import BRIDGE
from stages.transfer.unsb.losses import bridge_loss, energy_loss, patch_nce
from stages.transfer.unsb.networks import Discriminator, Generator, PatchProjector, channels, load_official
from stages.transfer.unsb.training import UNSBTraining
from tests.transfer.learning import assert_resumes, images, run


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
    """The official order, written down as it comes, image by image where it can be: D, E, then G with F."""
    torch.manual_seed(0)
    training = make(corrected)
    for network in training.networks.values():
        network.double()
        for weight in network.parameters():
            torch.nn.init.normal_(weight, 0, 0.2)  # so large that the steps' number tells
    plain = copy.deepcopy(training.networks)
    g, f, d, e = (plain[name] for name in ("G", "F", "D", "E"))
    optimisers = {name: torch.optim.Adam(x.parameters(), 2e-4, (0.5, 0.999)) for name, x in plain.items()}
    seen = set()
    for step in range(4):
        source, target, second = (images(3 * step + k, n).double() for k in range(3))
        drawn = torch.Generator().manual_seed(step)

        def normal(*shape, drawn=drawn):
            return torch.randn(*shape, generator=drawn).double()

        t = int(torch.randint(5, (1,), generator=drawn))
        seen.add(t)
        stands = torch.cat([source, target, second])
        with torch.no_grad():
            for before in range(t):
                z = normal(3 * n, 16)
                ends = torch.cat([g(x[None], torch.tensor([before]), z[[k]]) for k, x in enumerate(stands)])
                stands = BRIDGE.move(stands, ends, before + 1, normal(*stands.shape))
        z, each = normal(3 * n, 16), torch.full((n,), t)
        parts = zip(stands.split(n), z.split(n), strict=True)
        fake, same, fake_second = (g(x, each, noise) for x, noise in parts)
        x, _, x_second = stands.split(n)

        hinge = (d(fake.detach(), each).square().mean() + (d(target, each) - 1).square().mean()) / 2
        optimisers["D"].zero_grad()
        hinge.backward()
        optimisers["D"].step()

        pair, other = torch.cat([x, fake], 1), torch.cat([x_second, fake_second], 1)
        energy = energy_loss(e(pair.detach(), each, pair.detach()), e(pair.detach(), each, other.detach()))
        optimisers["E"].zero_grad()
        energy.backward()
        optimisers["E"].step()

        own, cross = e(pair, each, pair), e(pair, each, other)
        gan = (d(fake, each) - 1).square().mean()
        sb = bridge_loss(own, cross, x, fake, (5 - t) / 5, 0.01)
        contrasts = []
        for image, translated in ((source, fake), (target, same)):
            z = normal(n, 16)
            keys, queries = (g.encode(one, 0 * each, z) for one in (image, translated))
            places = [torch.randperm(k.shape[2] * k.shape[3], generator=drawn)[:20] for k in keys]
            layers = zip(f(queries, places), f(keys, places), strict=True)
            contrasts.append(sum(patch_nce(query, key) for query, key in layers) / 5)
        contrast = sum(contrasts) / 2
        for network in plain.values():
            network.zero_grad()
        (gan + sb + contrast).backward()
        optimisers["G"].step()
        optimisers["F"].step()

        losses = training.step(source, target, torch.Generator().manual_seed(step), second)
        for name, value in {
            "gan": gan,
            "sb": sb,
            "contrast": contrast,
            "discriminator": hinge,
            "energy": energy,
        }.items():
            torch.testing.assert_close(losses[name], value.detach(), rtol=1e-6, atol=1e-8, msg=name)
    assert len(seen) > 2
    shown, t, z = images(99, 1).double(), torch.tensor([3]), torch.ones(1, 16).double()
    torch.testing.assert_close(training.generator(shown, t, z), g(shown, t, z), rtol=1e-6, atol=1e-6)
    pair = torch.cat([shown, -shown], 1)
    torch.testing.assert_close(training.energy(pair, t, pair), e(pair, t, pair), rtol=1e-6, atol=1e-6)


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
