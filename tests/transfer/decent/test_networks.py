import math

import numpy as np
import pytest
import torch

from stages.store import StoreError
from stages.transfer.cut import ResnetGenerator, load_part, save_states
from stages.transfer.decent.networks import (
    BNAFModel,
    MaskedWeight,
    PatchDensityEstimator,
    apply,
    channels,
    load_official,
)
from tests.transfer.official import described, listing, randomised


def test_official_names_shapes_and_dtypes():
    with torch.device("meta"):
        network = BNAFModel(64)
    assert list(described(network).items()) == list(listing("decent_bnaf64").items())
    with torch.device("meta"):
        estimator = PatchDensityEstimator(channels(ResnetGenerator()))
    numbers = [sum(x.numel() for x in flow.parameters()) for flow in estimator.children()]
    assert numbers == [246, 330_496, 1_316_352, 1_316_352, 1_316_352]
    assert estimator.initialized.dtype == torch.uint8
    assert list(estimator.state_dict())[:2] == ["initialized", "flow_0.model.0.0._weight"]


def test_masks_block_by_block():
    layer = MaskedWeight(3, 2, 4)
    for row, column in np.ndindex(12, 6):
        assert layer.mask_d[row, column] == (row // 4 == column // 2)
        assert layer.mask_o[row, column] == (row // 4 > column // 2)
        above = row // 4 < column // 2
        assert (layer._weight[row, column] == 0) == above


def test_initialisation():
    """Each block row is Xavier's for its own size, the row norms' logarithms those of uniform numbers in (0, 1]."""
    torch.manual_seed(0)
    layer = MaskedWeight(2, 50, 60)
    for feature in range(2):
        block = layer._weight[60 * feature : 60 * feature + 60, : 50 * (feature + 1)]
        bound = math.sqrt(6 / (60 + 50 * (feature + 1)))
        assert 0.98 * bound < block.abs().max() <= bound
    norms = layer._diag_weight.exp()
    assert 0 < norms.min() < 0.05
    assert 0.95 < norms.max() <= 1
    assert 0.9 / math.sqrt(120) < layer.bias.abs().max() <= 1 / math.sqrt(120)


@pytest.mark.parametrize("features", [1, 3, 5])
def test_the_log_density_is_that_of_the_change_of_variables(features):
    """Against the Jacobian by automatic differentiation, in float64."""
    torch.manual_seed(0)
    model = BNAFModel(features, hidden=4).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0, 0.7)
    x = torch.randn(6, features, dtype=torch.float64)
    numbers, determinant = model.model(x)
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda one: model.model(one[None])[0][0], x[row])
        assert torch.equal(jacobian, jacobian.tril())
        assert (jacobian.diagonal() > 0).all()
        torch.testing.assert_close(jacobian.det().log(), determinant[row])
        normal = -features / 2 * math.log(2 * math.pi) - numbers[row].square().sum() / 2
        torch.testing.assert_close(model.log_probs(x)[row], normal + jacobian.det().log())


def test_the_density_integrates_to_one():
    torch.manual_seed(0)
    model = BNAFModel(1).double()
    with torch.no_grad():
        model.model[0][2]._diag_weight.fill_(3)  # tanh has bounds: its steep middle has to reach the normal's tails
        grid = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
        density = model.log_probs(grid[:, None]).exp()
        ends = model.model(grid[[0, -1], None])[0]
    mass = torch.special.ndtr(ends[1]) - torch.special.ndtr(ends[0])
    assert torch.trapezoid(density, grid).item() == pytest.approx(mass.item(), rel=1e-6)


def test_every_layer_has_its_own_flow_and_its_own_places():
    torch.manual_seed(0)
    estimator = PatchDensityEstimator([2, 3])
    features = [torch.randn(2, 2, 4, 4), torch.randn(2, 3, 2, 2)]
    places = [torch.tensor([5, 0, 15]), torch.tensor([3, 1])]
    made = estimator(features, places)
    for x, some, flow, log_densities in zip(features, places, estimator.children(), made, strict=True):
        for image in range(2):
            rows = torch.stack([x[image, :, place // x.shape[3], place % x.shape[3]] for place in some.tolist()])
            torch.testing.assert_close(log_densities[image], flow.log_probs(rows))


def test_official_files_round_trip(tmp_path):
    network = randomised(ResnetGenerator(4, 3))
    density = PatchDensityEstimator(channels(network))
    save_states(tmp_path, {"G": network, "F_A": density})
    loaded = load_official(tmp_path / "latest_net_G.pth")
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    other = PatchDensityEstimator(channels(network))
    load_part(tmp_path / "latest_net_F_A.pth", other)
    for name, value in density.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    with pytest.raises(
        StoreError, match=r"latest_net_F_A\.pth: not the weights of ResnetGenerator: .*unexpected \(init"
    ):
        load_official(tmp_path / "latest_net_F_A.pth")
    with pytest.raises(StoreError, match=r"none\.pth: no such checkpoint; DECENT's"):
        load_official(tmp_path / "none.pth")


def test_no_image_depends_on_those_beside_it():
    network = randomised(ResnetGenerator(4, 2))
    shown = np.random.default_rng(0).integers(0, 256, (4, 10, 13, 3), dtype=np.uint8)
    made = apply(network, shown)
    assert (made.shape, made.dtype) == (shown.shape, np.uint8)
    for k in range(4):
        assert np.array_equal(apply(network, shown[[k]])[0], made[k])
