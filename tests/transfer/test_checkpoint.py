import numpy as np
import pytest
import torch
from torch import nn

from stages.store import StoreError
from stages.transfer.checkpoint import entry, in_batches, load_strictly, to_images, to_network


@pytest.mark.parametrize("content", [{}, [1], {"other": {"weight": torch.zeros(1)}}, {"params": {"weight": 1}}])
def test_a_checkpoint_without_the_entry_says_what_it_holds(tmp_path, content):
    with pytest.raises(StoreError, match=r"a\.pth: no state_dict under 'params_ema' or 'params'; the file holds \w+"):
        entry(tmp_path / "a.pth", content, "params_ema", "params")


def test_loading_names_what_does_not_fit(tmp_path):
    network = nn.Linear(3, 2)
    state = dict(network.state_dict())
    load_strictly(network, state, tmp_path / "a.pth")
    with pytest.raises(StoreError, match=r"a\.pth: not the weights of Linear: 1 missing \(bias\); 1 unexpected \(x\)"):
        load_strictly(network, {"weight": state["weight"], "x": state["bias"]}, tmp_path / "a.pth")
    with pytest.raises(StoreError, match=r"of another shape \(weight \[3, 2\] for \[2, 3\]\)"):
        load_strictly(network, {**state, "weight": torch.zeros(3, 2)}, tmp_path / "a.pth")


def test_every_value_goes_in_and_out_unchanged():
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    for dtype in (torch.float32, torch.float64):
        pixels = to_network(images, nn.Linear(1, 1).to(dtype))
        assert pixels.dtype == dtype
        assert pixels.shape == (1, 3, 16, 16)
        assert (float(pixels.min()), float(pixels.max())) == (-1, 1)
        np.testing.assert_array_equal(to_images(pixels), images)
    pixels = torch.tensor([-1.5, -1.0, 0.0, 0.9999, 1.5]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_images(pixels)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_images(pixels, truncate=True)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255]


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [1] * 5), ("meta", [2, 2, 1])])
def test_batches(device, sizes):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    seen = []

    def function(some, part):
        seen.append(len(some))
        np.testing.assert_array_equal(some, images[part])
        return some + 1

    np.testing.assert_array_equal(in_batches(function, images, 2, torch.device(device)), images + 1)
    assert seen == sizes
    with pytest.raises(ValueError, match="no images"):
        in_batches(function, images[:0], 2, torch.device(device))
