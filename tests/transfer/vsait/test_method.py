from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.images import Shards
from stages.params import Params, ParamsError
from stages.run.machine import Machine
from stages.store import StoreError, encode, write_shard
from stages.transfer import create
from stages.transfer.vsait.knobs import Knobs
from stages.transfer.vsait.networks import VSAIT, load_official, save_official

SIZES = {"width": 4, "blocks": 3, "dimension": 16, "hidden": 6, "channels": (2, 3, 4, 5, 6)}


@pytest.fixture
def root(tmp_path):
    """Two identities of three images, the last of another size, and a checkpoint."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in [(20, 20), (20, 20), (18, 13)] * 2]
    numbers = {"identity": np.repeat([2, 5], 3), "sample": np.tile(np.arange(3), 2)}
    write_shard(tmp_path / "data/source/0.h5", numbers, [encode(image) for image in images])
    (tmp_path / "data/fit").mkdir()
    torch.manual_seed(0)
    save_official(tmp_path / "data/fit/vsait.ckpt", VSAIT(**SIZES))
    return tmp_path


def params(**knobs) -> Params:
    return Params(method="vsait", images_per_id=3, transfer=Knobs(size=0, device="cpu", **knobs))


def test_every_image_by_the_generator_alone(root):
    """Batch and neighbours change no bit; a size of no multiple of 4 is kept."""
    made = create(params(), root).portraits(2)
    assert made.sample.tolist() == [0, 1, 2]
    assert [image.shape for image in made.images] == [(20, 20, 3), (20, 20, 3), (18, 13, 3)]
    single = create(replace(params(), images_per_id=1), root).portraits(2)
    assert np.array_equal(single.images[0], made.images[0])
    shown = Shards(root / "data/source").image(0)
    generator = load_official(root / "data/fit/vsait.ckpt").g_net
    with torch.no_grad():
        pixels = generator(torch.from_numpy(shown).permute(2, 0, 1)[None].float() / 127.5 - 1)[0]
    wanted = ((pixels + 1) * 127.5).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(made.images[0], wanted, atol=0.51)


def test_images_are_scaled_to_the_knob(root):
    made = create(replace(params(), transfer=Knobs(size=32, device="cpu")), root).portraits(5)
    assert {image.shape for image in made.images} == {(32, 32, 3)}


def test_a_file_or_a_folder_may_be_named(root):
    (root / "data/fit/vsait.ckpt").rename(root / "epoch=3.ckpt")
    images = [create(params(weights=named), root).portraits(2).images for named in ("epoch=3.ckpt", ".")]
    for one, other in zip(*images, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "one file .*ckpt was expected, but there is none"),
        (b"cut", r"vsait\.ckpt: not a readable torch checkpoint"),
        ({"state_dict": {"model.g_net.x": torch.zeros(1)}}, r"vsait\.ckpt: not the weights of .*missing"),
        ({"params": {"x": torch.zeros(1)}}, r"vsait\.ckpt: no state_dict under 'state_dict'"),
    ],
)
def test_broken_files_are_refused_by_name(root, content, message, monkeypatch):
    monkeypatch.setattr(VSAIT.__init__, "__defaults__", tuple(SIZES.values()))  # what is not in the file, in small
    path = root / "data/fit/vsait.ckpt"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(StoreError, match=message):
        create(params(), root).portraits(2)


def test_no_weights_say_what_to_do(root):
    with pytest.raises(StoreError, match=r"no weights of method vsait; run `r2r fit`"):
        create(params(weights="none.ckpt"), root)


def test_knobs_that_do_not_fit_each_other():
    with pytest.raises(ParamsError, match=r"transfer\.crop is 256, but transfer\.load = 128"):
        Params(method="vsait", images_per_id=3, transfer=Knobs(load=128)).transfer.check(params())
    with pytest.raises(ParamsError, match=r"transfer\.crop is 40: .*16"):
        Knobs(crop=40)
    with pytest.raises(ParamsError, match=r"images_per_id is 11, but .* 10 images"):
        params().transfer.check(replace(params(), images_per_id=11))


def test_an_image_takes_as_long_as_its_operations(monkeypatch):
    """The first convolution of 7 x 7 and the residual blocks' at a quarter of the side, by hand."""
    monkeypatch.setattr(Machine, "seconds", lambda self, flops, device: flops)
    counts = [Knobs(width=8, blocks=blocks, size=32).seconds(None, Machine()) for blocks in (2, 4)]
    assert counts[1] - counts[0] == 2 * 2 * (2 * 9 * 32 * 32 * 8 * 8)
    assert counts[0] > 2 * (2 * 49 * 3 * 8 * 32 * 32)
