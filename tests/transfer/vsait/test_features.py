import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vgg import cfgs, make_layers

from stages.store import StoreError
from stages.transfer.vsait.features import RandomFilters, VGG19Features, load_vgg19


def test_vgg_gives_what_torchvisions_extractor_gives():
    """Official layers by torchvision's own tool, whose in-place ReLUs change what was tapped before them."""
    torch.manual_seed(0)
    theirs = make_layers(cfgs["E"], batch_norm=False)
    nodes = [str(node) for node in (2, 7, 12, 21, 30)]
    extractor = create_feature_extractor(theirs, nodes)
    ours = VGG19Features()
    kept = {f"features.{name}": value for name, value in theirs.state_dict().items() if int(name.split(".")[0]) <= 30}
    ours.load_state_dict(kept, strict=True)
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        found, wanted = ours(images), extractor(images)
    assert [x.shape[1] for x in found] == list(ours.channels) == [64, 128, 256, 512, 512]
    for x, node in zip(found, nodes, strict=True):
        assert torch.equal(x, wanted[node]), node
    assert all((x >= 0).all() for x in found[:-1])
    assert (found[-1] < 0).any()


def vgg19() -> dict[str, torch.Tensor]:
    """torchvision's file in small: every tensor one number, repeated without memory."""
    with torch.device("meta"):
        names = make_layers(cfgs["E"], batch_norm=False).state_dict()
    state = {f"features.{name}": torch.tensor(k / 64).expand(x.shape) for k, (name, x) in enumerate(names.items(), 1)}
    return state | {"classifier.0.weight": torch.zeros(()).expand(4096, 25088), "classifier.6.bias": torch.zeros(1000)}


def test_torchvisions_file_loads_strictly(tmp_path):
    path, state = tmp_path / "vgg19-dcbb9e9d.pth", vgg19()
    torch.save(state, path)
    network = load_vgg19(path)
    assert len(network.state_dict()) == 28
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not any(weight.requires_grad for weight in network.parameters())
    for change, message in (({"features.5.bias": None}, "missing"), ({"more": torch.zeros(1)}, "unexpected")):
        torch.save({name: value for name, value in (state | change).items() if value is not None}, path)
        with pytest.raises(StoreError, match=rf"vgg19-dcbb9e9d\.pth: .*{message} \({next(iter(change))}\)"):
            load_vgg19(path)
    torch.save([1], path)
    with pytest.raises(StoreError, match="but a list"):
        load_vgg19(path)


def test_random_filters_depend_on_the_seed_alone():
    one = RandomFilters()
    torch.manual_seed(5)
    for x, y in zip(one.buffers(), RandomFilters().buffers(), strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(one.filters_0, RandomFilters(seed=1).filters_0)


def test_random_filters_have_the_taps_of_vgg():
    """Sides, the ReLU behind all but the last, and features about as large from level to level."""
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = RandomFilters((16, 32, 64, 64, 64))(images)
    assert [tuple(x.shape) for x in found] == [
        (2, c, 64 // 2**k, 48 // 2**k) for k, c in enumerate((16, 32, 64, 64, 64))
    ]
    assert all((x >= 0).all() for x in found[:-1])
    assert (found[-1] < 0).any()
    sizes = [x.square().mean().sqrt().item() for x in found]
    assert max(sizes) < 10 * min(sizes)
    found[-1].sum().backward()
    assert images.grad.abs().sum() > 0
