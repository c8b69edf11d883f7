from dataclasses import replace

import cv2
import generator
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from prior import Training, create_unet, read_latents, samples, train

from stages.images import read_faces
from stages.store import encode, write_shard
from stages.training import Loop
from stages.transfer.ddim import load_prior
from tests.transfer.ddim.tiny import AUTOENCODER

TINY = Training(size=16, channels=(8, 32, 32), steps=4, batch_size=8, bf16=False)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Twelve images of a few spots."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), (16, 16)) for _ in range(12)]
    columns = {"identity": np.arange(12) // 2, "sample": np.arange(12, dtype=np.int32) % 2}
    write_shard(root / "0.h5", columns, [encode(image) for image in images])
    return root


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """An autoencoder of latents that are not centred."""
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(**AUTOENCODER, shift_factor=0.3, scaling_factor=2.0).half().save_pretrained(folder)
    return folder


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "training.json"
    }


def test_what_is_shipped_is_small():
    with torch.device("meta"):
        autoencoder = AutoencoderKL(block_out_channels=(8,) * 4, latent_channels=8, norm_num_groups=4)
        assert 2 * create_unet(Training(), autoencoder).num_parameters() < 8e6


def test_it_learns_what_inversion_will_ask(faces, vae):
    """The latents of the images as `Prior` encodes them, then of their mirror images."""
    examples = generator.Examples(read_faces(faces), torch.empty(0), torch.empty(0), "digest")
    network = generator.load_part(AutoencoderKL, vae)
    latents = read_latents(examples, network, TINY, [])
    assert latents.shape == (24, 4, 8, 8)
    pixels = examples.pixels(np.arange(12), 16)
    with torch.no_grad():
        for part, shown in zip(latents.split(12), (pixels, pixels.flip(3)), strict=True):
            torch.testing.assert_close(part, 2 * (network.encode(shown).latent_dist.mode() - 0.3))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_lowers_the_loss_and_saves_a_prior(faces, vae, tmp_path, monkeypatch, prediction):
    curves, means = [], Loop.means
    monkeypatch.setattr(Loop, "means", lambda self: curves.append(self.curve["loss"]) or means(self))
    train(faces, vae, replace(TINY, steps=30, lr=1e-2, prediction=prediction), tmp_path)
    assert curves[0][-10:].mean() < 0.8 * curves[0][:5].mean()
    prior = load_prior(tmp_path / "prior")
    assert prior.size == 16
    assert prior.schedulers(1)[0].config.prediction_type == prediction
    assert content(tmp_path / "prior/vae") == content(vae)
    assert (tmp_path / "prior/unet/diffusion_pytorch_model.safetensors").stat().st_size < (
        2.1 * prior.unet.num_parameters() + 50_000
    )


def test_a_resumed_training_gives_the_same_bits(faces, vae, tmp_path, monkeypatch):
    train(faces, vae, TINY, tmp_path / "whole")
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "another"))
    schedule_of, steps = generator.schedule, []

    def killed(step, *arguments):
        steps.append(step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return schedule_of(step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(generator, "schedule", killed)
        patch.setattr("stages.training.loop.time.monotonic", lambda: 1e6 * len(steps))  # a checkpoint every step
        with pytest.raises(KeyboardInterrupt):
            train(faces, vae, TINY, tmp_path / "resumed")
    starts, build = [], Loop.__init__
    monkeypatch.setattr(Loop, "__init__", lambda self, *a, **k: (build(self, *a, **k), starts.append(self.start))[0])
    train(faces, vae, TINY, tmp_path / "resumed")
    assert starts == [3]
    assert content(tmp_path / "resumed/prior") == content(tmp_path / "whole/prior")
    assert samples(tmp_path / "whole/prior", faces, 2).std() > 10
