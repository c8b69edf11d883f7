"""DECENT as `fit` and `synthesize` see it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages import fit
from stages.knobs import ParamsError
from stages.store import StoreError
from stages.transfer.decent.knobs import Knobs
from stages.transfer.decent.learner import CODE, Learner
from stages.transfer.decent.method import Method
from stages.transfer.decent.networks import load_official
from tests.transfer.staged import assert_killed_fit_goes_on_to_the_same_bytes, params, write_faces

TINY = {"steps": 4, "batch_size": 2, "load": 36, "crop": 32, "width": 4, "blocks": 2, "patches": 8, "size": 0}
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    return write_faces(tmp_path)


def batch(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_killed_fit_goes_on_to_the_same_bytes(root, monkeypatch):
    assert_killed_fit_goes_on_to_the_same_bytes(root, params("decent", **TINY), Learner, monkeypatch)
    names = {path.name for path in (root / "data/fit").iterdir()}
    assert names == {f"latest_net_{name}.pth" for name in ("G", "D", "F_A", "F_B")}


def test_rates_and_the_average_are_the_knobs():
    learner = Learner(Knobs(**TINY, lr=0.01, density_lr=0.02, polyak=0.5), CPU)
    rates = []
    for step in range(4):
        learner.step(batch(step), batch(9), torch.Generator().manual_seed(step))
        rates.append([one.param_groups[0]["lr"] for one in (learner.of_generator, learner.of_densities)])
    factors = [1, 1, 1 - 1 / 201, 1 - 101 / 201]  # of epochs 0, 100, 200, 300 of the 400
    np.testing.assert_allclose(rates, [[0.01 * factor, 0.02 * factor] for factor in factors])
    assert learner.of_densities.param_groups[0]["polyak"] == 0.5


def test_what_was_learned_translates_as_the_sheet_shows(root):
    chosen = params("decent", **TINY)
    fit.run(chosen, root)
    method = Method(chosen, root)
    portraits = method.portraits(1)
    assert portraits.sample.tolist() == [0, 1]
    images = np.stack([method.source.image(row) for row in method.rows(1)])
    made = method.network(images)
    np.testing.assert_array_equal(np.stack(portraits.images), made)
    assert made.shape == images.shape
    for image, one in zip(images, made, strict=True):  # whatever stands beside it
        np.testing.assert_array_equal(method.network(image[None])[0], one)
    assert not np.array_equal(made[0], images[0])


def test_images_are_scaled_to_the_size(root):
    chosen = params("decent", **TINY)
    fit.run(chosen, root)
    bigger = Method(replace(chosen, transfer=replace(chosen.transfer, size=48)), root)
    assert {image.shape for image in bigger.portraits(0).images} == {(48, 48, 3)}
    assert (bigger.knobs.side, chosen.transfer.side) == (48, 112)
    assert bigger.origin(0) != Method(chosen, root).origin(0)


def test_a_file_can_be_named_and_a_wrong_one_is_refused_by_name(root):
    chosen = params("decent", **TINY)
    fit.run(chosen, root)
    folder, file = root / "data/fit", root / "mine.pth"
    shutil.copy(folder / "latest_net_G.pth", file)

    def named(path) -> Method:
        return Method(replace(chosen, transfer=replace(chosen.transfer, weights=str(path))), root)

    images = np.full((1, 36, 36, 3), 90, np.uint8)
    np.testing.assert_array_equal(named(file).network(images), named(folder).network(images))
    with pytest.raises(StoreError, match=r"none\.pth: no weights of method decent; run `r2r fit`"):
        named(root / "none.pth")
    shutil.copy(folder / "latest_net_D.pth", file)
    with pytest.raises(StoreError, match=r"mine\.pth: not the weights of ResnetGenerator"):
        _ = named(file).network
    file.write_bytes(b"broken")
    with pytest.raises(StoreError, match=r"mine\.pth: not a readable torch checkpoint"):
        _ = named(file).network
    (folder / "latest_net_G.pth").unlink()
    with pytest.raises(StoreError, match=r"latest_net_G\.pth: no such checkpoint; .*github\.com/Mid-Push/Decent"):
        _ = named(folder).network
    with pytest.raises(StoreError, match=r"latest_net_F_A\.pth"):
        load_official(folder / "latest_net_F_A.pth")


def test_knobs_that_do_not_fit_are_refused():
    for knobs, message in (
        ({"crop": 40, "load": 36}, r"transfer\.crop is 40, but transfer\.load = 36"),
        ({"crop": 34}, r"transfer\.crop is 34"),
        ({"blocks": 1}, r"transfer\.blocks is 1: at least 2"),
    ):
        with pytest.raises(ParamsError, match=message):
            params("decent", **(TINY | knobs))
    with pytest.raises(ParamsError, match=r"images_per_id is 11, but method decent"):
        replace(params("decent"), images_per_id=11)


def test_operations_of_an_image():
    """Those of the official generator's convolutions at 256 px, by hand."""
    half, quarter = 128, 64
    conv = 256**2 * 49 * 3 * 64 * 2 + (256**2 * 64 * 128 + half**2 * 128 * 256) * 9 * 2 + 18 * quarter**2 * 256**2 * 9
    blur = 128 * half**2 * 9 + 256 * quarter**2 * 9 + (256 * quarter**2 + 128 * half**2) * 16
    assert Knobs().flops == pytest.approx(2 * (conv + blur), rel=0.01)


def test_all_that_makes_an_image_is_code_of_it():
    assert {*Method.code} <= {*CODE, "transfer/decent/method"}
