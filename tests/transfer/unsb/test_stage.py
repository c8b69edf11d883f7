"""UNSB as `fit` and `synthesize` see it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages import fit
from stages.knobs import ParamsError
from stages.store import StoreError
from stages.transfer.unsb.bridge import Bridge, apply, noise_seed
from stages.transfer.unsb.knobs import Knobs
from stages.transfer.unsb.learner import CODE, Learner
from stages.transfer.unsb.losses import bridge_loss, energy_loss
from stages.transfer.unsb.method import Method
from stages.transfer.unsb.networks import load_official
from tests.transfer.staged import assert_killed_fit_goes_on_to_the_same_bytes, params, write_faces

TINY = {"steps": 4, "batch_size": 2, "load": 36, "crop": 32, "width": 4, "blocks": 2, "patches": 8, "size": 0}
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    return write_faces(tmp_path)


def batch(seed: int, n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_killed_fit_goes_on_to_the_same_bytes(root, monkeypatch, batch_size):
    chosen = params("unsb", **(TINY | {"batch_size": batch_size}))
    assert_killed_fit_goes_on_to_the_same_bytes(root, chosen, Learner, monkeypatch)
    names = {path.name for path in (root / "data/fit").iterdir()}
    assert names == {f"latest_net_{name}.pth" for name in ("G", "D", "E", "F")}


@pytest.mark.parametrize("n", [1, 3])
def test_one_step_is_the_official_order_of_updates(n):
    """Discriminator, energy network, then generator and projector, at a step that is drawn; batches of any size."""
    knobs = Knobs(**TINY, sb=2.0, nce=0.5)
    torch.manual_seed(0)
    learner = Learner(knobs, CPU)
    torch.manual_seed(0)
    copy = Learner(knobs, CPU)
    source, target, second = batch(1, n), batch(2, n), batch(4, n)
    losses = learner.step(source, target, torch.Generator().manual_seed(8), second)

    generator = torch.Generator().manual_seed(8)
    t = int(torch.randint(5, (1,), generator=generator))
    assert t  # or nothing walks
    x, bridge = torch.cat([source, target, second]), Bridge()
    with torch.no_grad():
        for step in range(t):
            z = torch.randn(3 * n, 16, generator=generator)
            end = copy.generator(x, torch.full((3 * n,), step), z)
            x = bridge.move(x, end, step + 1, torch.randn(x.shape, generator=generator))
    ends = copy.generator(x, torch.full((3 * n,), t), torch.randn(3 * n, 16, generator=generator))
    stands, fakes, when = x.split(n), ends.split(n), torch.full((n,), t)

    def adam(*networks):
        return torch.optim.Adam([p for network in networks for p in network.parameters()], 2e-4, (0.5, 0.999))

    def descend(loss, *networks):
        optimiser = adam(*networks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    of_fake, of_real = copy.discriminator(fakes[0].detach(), when), copy.discriminator(target, when)
    discriminator = (of_fake.square().mean() + (of_real - 1).square().mean()) / 2
    descend(discriminator, copy.discriminator)

    def energies(fakes):
        pair, other = (torch.cat([stands[i], fakes[i]], 1) for i in (0, 2))
        return copy.energy(pair, when, pair), copy.energy(pair, when, other)

    energy = energy_loss(*energies([fake.detach() for fake in fakes]))
    descend(energy, copy.energy)

    gan = (copy.discriminator(fakes[0], when) - 1).square().mean()
    sb = bridge_loss(*energies(fakes), stands[0], fakes[0], (5 - t) / 5, 0.01)
    nce = (copy.contrast(source, fakes[0], generator) + copy.contrast(target, fakes[1], generator)) / 2
    descend(gan + 2 * sb + 0.5 * nce, copy.generator, copy.projector)
    found = {"gan": gan, "sb": sb, "nce": nce, "discriminator": discriminator, "energy": energy}
    for name, value in found.items():
        torch.testing.assert_close(losses[name], value.detach(), msg=lambda text, name=name: f"{name}: {text}")
    for one, other in zip(learner.networks.values(), copy.networks.values(), strict=True):
        for mine, yours in zip(one.parameters(), other.parameters(), strict=True):
            if mine.ndim > 1:  # of a bias before a norm, the gradient is rounding alone
                torch.testing.assert_close(mine, yours)


def test_the_second_images_are_the_step_befores(monkeypatch):
    learner, seen = Learner(Knobs(**(TINY | {"batch_size": 1})), CPU), []
    energies = learner.energies
    monkeypatch.setattr(learner, "energies", lambda *given: seen.append(given[2].clone()) or energies(*given))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.zeros(1))  # nothing walks
    for step in range(3):
        learner.step(batch(step, 1), batch(9, 1), torch.Generator().manual_seed(step))
    assert torch.equal(seen[0], batch(0, 1).flip(3))  # there was none before
    assert torch.equal(seen[2], batch(0, 1))
    assert torch.equal(seen[4], batch(1, 1))
    again = Learner(Knobs(**TINY), CPU)
    again.kept.load_state_dict(learner.kept.state_dict())
    assert torch.equal(again.kept.images, batch(2, 1))


def test_what_was_learned_translates_each_image_by_itself(root):
    chosen = params("unsb", **TINY)
    fit.run(chosen, root)
    method = Method(chosen, root)
    portraits = method.portraits(1)
    images = np.stack([method.source.image(row) for row in method.rows(1)])
    made = method.network(images)
    np.testing.assert_array_equal(np.stack(portraits.images), made)
    for image, one in zip(images, made, strict=True):  # whatever stands beside it
        np.testing.assert_array_equal(method.network(image[None])[0], one)
    assert portraits.seed.tolist() == [noise_seed(0, image) for image in images]
    assert len(set(portraits.seed.tolist())) == 2


def test_evaluations_and_seed_are_knobs(root):
    chosen = params("unsb", **TINY)
    fit.run(chosen, root)
    generator = load_official(root / "data/fit/latest_net_G.pth")
    images = np.random.default_rng(0).integers(0, 256, (1, 36, 36, 3), dtype=np.uint8)
    made = {}
    for seed in (0, 1):
        for nfe in range(1, 6):
            run = replace(chosen, seed=seed, transfer=replace(chosen.transfer, nfe=nfe))
            made[seed, nfe] = Method(run, root).network(images)
            np.testing.assert_array_equal(made[seed, nfe], apply(generator, images, nfe, seed))
    assert len({image.tobytes() for image in made.values()}) > 5  # of ten, in 256 levels
    assert Knobs(nfe=1).flops * 5 == Knobs(nfe=5).flops > 0


def test_what_an_image_is_made_from(root):
    chosen = params("unsb", **TINY)
    fit.run(chosen, root)
    origins = [Method(replace(chosen, seed=seed), root).origin(0) for seed in (0, 0, 1)]
    assert origins[0] == origins[1] != origins[2]
    assert {*Method.code} <= {*CODE, "transfer/unsb/method"}


def test_the_corrected_variant_is_told_by_the_knob(root):
    """Its file has the official names, so that the knob alone says how it is to be read."""
    chosen = params("unsb", **(TINY | {"corrected": True}))
    fit.run(chosen, root)
    images = np.random.default_rng(0).integers(0, 256, (1, 36, 36, 3), dtype=np.uint8)
    faulty = replace(chosen, transfer=replace(chosen.transfer, corrected=False))
    assert load_official(root / "data/fit/latest_net_G.pth", True).model_res[0].corrected
    assert not np.array_equal(Method(chosen, root).network(images), Method(faulty, root).network(images))


def test_wrong_files_are_refused_by_name(root):
    chosen = params("unsb", **TINY)
    fit.run(chosen, root)
    folder = root / "data/fit"
    for name, message in (
        ("latest_net_D.pth", r"latest_net_D\.pth: not the weights of Generator"),
        ("latest_net_X.pth", r"latest_net_X\.pth: not a checkpoint"),
    ):
        (folder / "latest_net_X.pth").write_bytes(b"broken")
        named = replace(chosen, transfer=replace(chosen.transfer, weights=str(folder / name)))
        with pytest.raises(StoreError, match=message):
            _ = Method(named, root).network
    (folder / "latest_net_G.pth").unlink()
    with pytest.raises(StoreError, match=r"latest_net_G\.pth: no such checkpoint; .*github\.com/cyclomon/UNSB"):
        _ = Method(chosen, root).network


def test_knobs_that_do_not_fit_are_refused():
    with pytest.raises(ParamsError, match=r"transfer\.nfe is 6, but the bridge has transfer\.timesteps = 5"):
        params("unsb", nfe=6)
    with pytest.raises(ParamsError, match=r"transfer\.nfe is 0: at least 1"):
        params("unsb", nfe=0)
    with pytest.raises(ParamsError, match=r"transfer\.crop is 40"):
        params("unsb", **(TINY | {"crop": 40}))
