"""UNSB as `fit` and `synthesize` see it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages import fit
from stages.knobs import ParamsError
from stages.store import StoreError
from stages.transfer.unsb.bridge import apply, noise_seed
from stages.transfer.unsb.knobs import Knobs
from stages.transfer.unsb.learner import CODE, Learner
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
        ("latest_net_X.pth", r"latest_net_X\.pth: not a readable torch checkpoint"),
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
