import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.store import StoreError
from stages.transfer.stylegan import perceptual
from stages.transfer.stylegan.perceptual import LPIPS, RandomFeatures, load_lpips


def pixels(seed):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (2, 3, 32, 32))).float()


def lpips(width=4):
    torch.manual_seed(0)
    network = LPIPS(width)
    for name, weight in network.named_parameters():
        weight.copy_(weight.abs() if name.startswith("lin") else weight)
    return network


def test_lpips_written_out():
    """Distances of unit features, weighted by channel, averaged over places, summed over layers."""
    network, one, other = lpips(), pixels(0), pixels(1)
    features = []
    for image in (one, other):
        x = (image / 127.5 - 1 - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor(
            [0.458, 0.448, 0.450]
        ).view(3, 1, 1)
        maps, number = [], 0
        for level, depth in enumerate((2, 2, 3, 3, 3)):
            if level:
                x, number = F.max_pool2d(x, 2), number + 1
            for _ in range(depth):
                weight, bias = (network.get_parameter(f"features.{number}.{kind}") for kind in ("weight", "bias"))
                x, number = F.conv2d(x, weight, bias, padding=1).relu(), number + 2
            maps.append(x / x.norm(dim=1, keepdim=True).clamp(min=1e-10))
        features.append(maps)
    expected = sum(
        F.conv2d((a - b) ** 2, network.get_parameter(f"lin{level}.model.1.weight")).mean((1, 2, 3))
        for level, (a, b) in enumerate(zip(*features, strict=True))
    )
    got = (network(one) - network(other)).square().sum(1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert (got > 0).all()


def test_a_place_without_features_has_a_gradient():
    network = lpips()
    network.features[0].bias.fill_(-1e3)
    flat = torch.full((1, 3, 32, 32), 127.5, requires_grad=True)
    network(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()


def test_official_files(tmp_path, monkeypatch):
    monkeypatch.setattr(LPIPS.__init__, "__defaults__", (4,))
    network = lpips()
    state = network.state_dict()
    vgg = {name: value for name, value in state.items() if name.startswith("features.")}
    torch.save({**vgg, "classifier.0.weight": torch.zeros(1)}, tmp_path / perceptual.VGG)
    with pytest.raises(StoreError, match=r"vgg\.pth: no such .*PerceptualSimilarity.*BSD-2-Clause"):
        load_lpips(tmp_path)
    torch.save({name: value for name, value in state.items() if name not in vgg}, tmp_path / perceptual.LPIPS_WEIGHTS)
    torch.testing.assert_close(load_lpips(tmp_path)(pixels(0)), network(pixels(0)))
    torch.save({"lin0.model.1.weight": torch.zeros(1, 4, 1, 1)}, tmp_path / perceptual.LPIPS_WEIGHTS)
    with pytest.raises(StoreError, match=r"not the weights of LPIPS: 4 missing \(lin1"):
        load_lpips(tmp_path)
    with pytest.raises(StoreError, match=r"vgg16-397923af\.pth: no such .*torchvision"):
        load_lpips(tmp_path / "elsewhere")


def test_lpips_has_the_official_names():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in LPIPS().state_dict().items()}
    assert shapes["features.28.weight"] == (512, 512, 3, 3)
    assert [shapes[f"lin{k}.model.1.weight"][1] for k in range(5)] == [64, 128, 256, 512, 512]
    assert len(shapes) == 2 * 13 + 5


def test_random_features_compare_by_the_mean_of_each_map():
    """Twice as large an image of the same colours is as far from another; the squared distance grows with contrast."""
    features = RandomFeatures()
    torch.testing.assert_close(features(pixels(0)), RandomFeatures()(pixels(0)))
    flat = [torch.full((1, 3, side, side), level) for side in (32, 64) for level in (100.0, 140.0)]
    small, large = ((features(a) - features(b)).square().sum() for a, b in (flat[:2], flat[2:]))
    assert float(small) == pytest.approx(float(large), rel=0.2)
    near, far = ((features(flat[0]) - features(flat[0] + step)).square().sum() for step in (5.0, 50.0))
    assert 10 * near < far
