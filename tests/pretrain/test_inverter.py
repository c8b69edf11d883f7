from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pretrain import inverter
from pretrain.inverter import MasterAdam, Training, draw_photographs, fast, learn, read_pixels, samples, train
from stages.images import read_faces
from stages.store import encode, write_shard
from stages.training import Loop
from stages.transfer.stylegan.encoders import E4EEncoder

TINY = Training(
    size=16,
    channel_base=64,
    channel_max=8,
    style=22,
    mlp=2,
    depths=(1, 1, 1, 1),
    widths=(16, 18, 20, 22),
    steps=6,
    game_size=4,
    batch_size=4,
    rise=2,
    fall=3,
    ema=0.5,
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    images = [encode(np.full((20, 20, 3), 20 * k, np.uint8)) for k in range(12)]
    write_shard(folder / "0.h5", {"identity": np.arange(12), "sample": np.zeros(12, np.int32)}, images)
    return read_faces(folder)


def content(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_from_faces_to_a_file_of_the_official_layout(faces, tmp_path):
    model = train(faces, TINY, tmp_path)
    assert isinstance(model.encoder, E4EEncoder)
    assert (model.generator.size, model.encoder.size, model.from_mean) == (16, 16, False)
    assert {value.dtype for value in content(tmp_path / "inverter.pt").values()} == {torch.float16, torch.int64}
    assert samples(model, faces, 2).ndim == 3


def test_a_killed_training_goes_on_to_the_same_bytes(faces, tmp_path, monkeypatch):
    train(faces, TINY, tmp_path / "one")
    record, done = Loop.record, []

    def killed(self, **values):
        self.minutes = 0  # a checkpoint after each step
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        record(self, **values)

    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "another cache"))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            train(faces, TINY, tmp_path / "two")
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "record", lambda self, **values: done.append(1) or record(self, **values))
        torch.manual_seed(99)
        train(faces, TINY, tmp_path / "two")
    assert len(done) == 4 + 3
    one, two = (content(tmp_path / name / "inverter.pt") for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_seed_counts(faces):
    pixels = read_pixels(faces, 16)
    first, other = (learn(pixels, replace(TINY, steps=1, seed=seed), f"{seed}" * 64)[0] for seed in (0, 1))
    assert not torch.equal(first.generator.input.input, other.generator.input.input)


def test_the_losses_fall(faces):
    """On few flat images, painting again is soon learned."""
    training = replace(TINY, steps=60, fall=1, encoder_lr=1e-2)
    curves = []
    record = Loop.record

    def keep(self, **values):
        curves.append(values["distance"])
        record(self, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "record", keep)
        learn(read_pixels(faces, 16), training, "f" * 64)
    assert np.mean(curves[-10:]) < 0.5 * np.mean(curves[:5])


def test_whom_an_image_shows_is_not_used(faces, tmp_path):
    """The same images of other people are the same training."""
    images = [faces.encoded(row) for row in range(12)]
    write_shard(tmp_path / "0.h5", {"identity": np.zeros(12, int), "sample": np.arange(12)}, images)
    other = read_faces(tmp_path)
    assert torch.equal(read_pixels(other, 16), read_pixels(faces, 16))


def test_master_adam_is_adam_of_rounded_weights():
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    plain = nn.Linear(3, 2)
    plain.load_state_dict(network.state_dict())
    half = fast(network)
    mixed, adam = MasterAdam(network, half), torch.optim.Adam(plain.parameters(), 0.1, (0.0, 0.99))
    mixed.adam.param_groups[0]["lr"] = 0.1
    for _ in range(3):
        x = torch.randn(4, 3)
        rounded = {name: weight.bfloat16() for name, weight in plain.named_parameters()}
        for name, weight in rounded.items():
            weight.retain_grad()
            assert torch.equal(weight, half.get_parameter(name)), name
        torch.func.functional_call(plain, rounded, x.bfloat16()).square().sum().backward()
        adam.step()
        adam.zero_grad()
        mixed.zero_grad()
        half(x.bfloat16()).square().sum().backward()
        mixed.step()
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_half_of_the_photographs_are_mirrored():
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    pixels[..., 0] = 255
    drawn = draw_photographs(pixels, 200, torch.Generator().manual_seed(0))
    assert drawn.unique().tolist() == [-1, 1]
    assert 70 < int((drawn[:, 0, 0, 0] > 0).sum()) < 130


def test_the_shipped_sizes():
    generator, discriminator, encoder = inverter.create(Training())
    assert generator.size == encoder.size == 64
    weights = sum(weight.numel() for network in (generator, encoder) for weight in network.parameters())
    assert weights * 2 < 8e6
    with torch.no_grad():
        assert discriminator(generator(torch.randn(4, 96))).shape == (4, 1)


def test_it_goes_on_from_a_file(faces, tmp_path):
    """Its weights are where the second leg begins: without a step's rate, they stay what they were."""
    train(faces, TINY, tmp_path / "first")
    still = replace(TINY, seed=1, lr=0.0, encoder_lr=0.0, game_every=2)
    train(faces, still, tmp_path / "further", tmp_path / "first/inverter.pt")
    first, further = (content(tmp_path / leg / "inverter.pt") for leg in ("first", "further"))
    weights = [name for name in first if name.endswith(("weight", "bias"))]
    assert weights
    for name in weights:
        torch.testing.assert_close(further[name], first[name], msg=name)
