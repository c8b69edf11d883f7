from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from pretrain.generator import (
    LENGTH,
    Training,
    batch_rows,
    create_denoiser,
    create_tokenizer,
    create_vae,
    crop,
    fit,
    pyramid_l1,
    read_faces,
    schedule,
    train,
)
from stages.store import StoreError, encode, write_shard
from stages.transfer.arc2face import Arc2FacePipeline
from stages.transfer.arc2face.pipeline import PROMPT

TINY = Training(
    size=16,
    vae_channels=(8, 16),
    latent_channels=2,
    unet_channels=(16, 16, 16),
    text_layers=1,
    vae_steps=6,
    vae_crop=8,
    vae_whole=2,
    steps=6,
    batch_size=8,
    bf16=False,
    checkpoint_every=4,
)


class Colours:
    """An encoder that tells a face by its mean colour."""

    def __init__(self, path):
        self.path = path

    def embed(self, images):
        colour = images.mean(axis=(1, 2)) / 255
        return np.concatenate([colour, np.ones((len(images), 5))], axis=1).astype(np.float32)


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setattr("pretrain.generator.Encoder", Colours)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve people of one flat colour each."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    (root / "encoder.onnx").touch()
    for shard in range(2):
        identity, sample = np.divmod(np.arange(12), 2)
        identity += 6 * shard
        images = []
        for number in identity:
            colour = np.random.default_rng(number).integers(30, 225, 3)
            images.append(encode((colour + rng.integers(-20, 20, (16, 16, 1))).astype(np.uint8)))
        columns = {"identity": identity, "sample": sample.astype(np.int32)}
        write_shard(root / f"{shard}.h5", columns, images, fingerprint=f"images {shard}")
    return root


@pytest.fixture
def faces(folder, tmp_path):
    return read_faces(folder, folder / "encoder.onnx", tmp_path / "embed")


def state(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "training.json"
    }


def weights(folder):
    """Every part's tensors, by part and name."""
    return {
        f"{path.parent.name}.{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def test_faces_meet_their_vectors(faces):
    assert len(faces.images) == 24
    torch.testing.assert_close(faces.vectors.norm(dim=1), torch.ones(24))
    pixels = faces.pixels(np.arange(24), 16)
    assert pixels.shape == (24, 3, 16, 16)
    colour = (pixels.mean(dim=(2, 3)) + 1) / 2
    torch.testing.assert_close(colour, faces.vectors[:, :3] / faces.vectors[:, 3:4], atol=0.03, rtol=0)
    assert faces.pixels(np.arange(2), 8).shape == (2, 3, 8, 8)
    for row in range(0, 24, 2):  # two images a person
        mean = F.normalize(faces.vectors[row : row + 2].mean(dim=0), dim=0)
        torch.testing.assert_close(faces.prototypes[row : row + 2], mean.expand(2, -1))


def test_embeddings_are_kept_until_the_encoder_changes(folder, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Colours, "embed", lambda self, images, embed=Colours.embed: calls.append(1) or embed(self, images)
    )
    encoder = tmp_path / "encoder.onnx"
    encoder.write_bytes(b"one")
    first, second = (read_faces(folder, encoder, tmp_path / "embed") for _ in range(2))
    assert len(calls) == 2
    assert first.fingerprint == second.fingerprint
    torch.testing.assert_close(first.vectors, second.vectors)
    encoder.write_bytes(b"two")
    assert read_faces(folder, encoder, tmp_path / "embed").fingerprint != first.fingerprint
    assert len(calls) == 4


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="no image shards"):
        read_faces(tmp_path, tmp_path / "encoder.onnx", tmp_path / "embed")


def test_crops_are_parts_of_their_images():
    pixels = torch.arange(2 * 3 * 6 * 7).reshape(2, 3, 6, 7).float()
    seen = set()
    for seed in range(40):
        parts = crop(pixels, 4, torch.Generator().manual_seed(seed))
        assert parts.shape == (2, 3, 4, 4)
        for number, part in enumerate(parts):
            y, x = divmod(int(part[0, 0, 0]) - number * 126, 7)
            assert torch.equal(part, pixels[number, :, y : y + 4, x : x + 4])
            seen.add((y, x))
    assert seen == {(y, x) for y in range(3) for x in range(4)}


def test_the_prompt_is_a_token_a_word():
    tokenizer = create_tokenizer()
    tokens = tokenizer(PROMPT, padding="max_length", max_length=LENGTH).input_ids
    assert tokenizer.convert_ids_to_tokens(tokens) == (
        ["<|startoftext|>", "photo</w>", "of</w>", "a</w>", "id</w>", "person</w>"] + 2 * ["<|endoftext|>"]
    )


def test_the_shipped_size():
    """UNet, text encoder and VAE in fp16, for an encoder of 256 numbers; beside them stands the identity encoder."""
    with torch.device("meta"):
        parts = [create_vae(Training()), create_denoiser(Training(), create_tokenizer(), 256)]
    assert 2 * sum(weight.numel() for part in parts for weight in part.parameters()) < 20e6


def test_an_epoch_sees_every_row_once():
    rows = [batch_rows(20, 6, step, 0, "x") for step in range(6)]
    assert [len(set(np.concatenate(rows[begin : begin + 3]))) for begin in (0, 3)] == [18, 18]
    assert not np.array_equal(rows[0], rows[3])
    np.testing.assert_array_equal(rows[4], batch_rows(20, 6, 4, 0, "x"))
    assert len(batch_rows(3, 8, 5, 0, "x")) == 3


def test_the_schedule_rises_and_falls_to_zero():
    factors = [schedule(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert (np.diff(factors[10:]) < 0).all()


def test_the_pyramid_weighs_a_flat_error_once_and_detail_more():
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert pyramid_l1(flat, torch.zeros_like(flat)).item() == pytest.approx(0.5)
    board = torch.ones(16, 16)
    board[::2, ::2] = board[1::2, 1::2] = -1
    assert pyramid_l1(board.expand(1, 3, -1, -1), torch.zeros(1, 3, 16, 16)).item() == pytest.approx(1)
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert pyramid_l1(noise, torch.zeros_like(noise)) > noise.abs().mean()


def test_the_average_and_the_optimizer_are_the_textbooks(tmp_path):
    """A line fitted by hand: AdamW, the moving average of its weights, and the learning rate of each step."""
    knobs = replace(TINY, warmup=0.0, ema=0.9)
    model = torch.nn.Linear(1, 1)
    weights = [torch.nn.Parameter(parameter.detach().clone()) for parameter in model.parameters()]
    data = torch.linspace(-1, 1, 8)[:, None]

    optimizer = torch.optim.AdamW(weights, lr=0.1, betas=(0.9, 0.99), weight_decay=1e-4)
    average = [weight.detach().clone() for weight in weights]
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 * schedule(step, 5, 0.0)
        optimizer.zero_grad()
        F.mse_loss(data @ weights[0].T + weights[1], 3 * data + 1).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        decay = min(0.9, (1 + step) / (10 + step))
        average = [decay * old + (1 - decay) * new.detach() for old, new in zip(average, weights, strict=True)]

    fit(
        model,
        lambda step, generator: F.mse_loss(model(data), 3 * data + 1),
        5,
        0.1,
        knobs,
        tmp_path / "line.pt",
        "line",
    )
    for parameter, expected in zip(model.parameters(), average, strict=True):
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_lowers_the_loss_and_saves_what_loads(faces, tmp_path, prediction):
    training = replace(TINY, vae_steps=60, steps=80, lr=3e-3, vae_lr=3e-3, prediction=prediction, checkpoint_every=1000)
    pipeline = train(faces, training, tmp_path)
    for name in ("vae", "denoiser"):
        losses = torch.load(tmp_path / f"{name}.pt")["losses"]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5]), name
    loaded = Arc2FacePipeline.from_pretrained(tmp_path / "generator", dtype=torch.float32, low_cpu_mem_usage=False)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.scheduler.config.prediction_type == prediction
    images = [
        each(faces.vectors[:3], [torch.Generator().manual_seed(n) for n in range(3)], steps=3).int()
        for each in (pipeline, loaded)
    ]
    assert images[0].shape == (3, 16, 16, 3)
    assert (images[0] - images[1]).abs().float().mean() < 3  # of 255: fp16 weights
    weights = (tmp_path / "generator/unet/diffusion_pytorch_model.safetensors").stat().st_size
    assert weights < 2.1 * sum(parameter.numel() for parameter in pipeline.unet.parameters()) + 50_000


def test_a_resumed_training_gives_the_same_bits(faces, tmp_path, monkeypatch):
    train(faces, TINY, tmp_path / "whole")
    schedule_of, steps = schedule, []

    def killed(step, *arguments):
        steps.append(step)
        if len(steps) == 12:  # in the second phase, after its first checkpoint
            raise KeyboardInterrupt
        return schedule_of(step, *arguments)

    monkeypatch.setattr("pretrain.generator.schedule", killed)
    with pytest.raises(KeyboardInterrupt):
        train(faces, TINY, tmp_path / "resumed")
    monkeypatch.setattr("pretrain.generator.schedule", schedule_of)
    train(faces, TINY, tmp_path / "resumed")
    assert state(tmp_path / "resumed/generator") == state(tmp_path / "whole/generator")


def test_a_checkpoint_of_another_training_is_refused(faces, tmp_path):
    train(faces, replace(TINY, vae_steps=1, steps=1), tmp_path)
    with pytest.raises(StoreError, match=r"vae\.pt: of other knobs or data"):
        train(faces, replace(TINY, vae_steps=1, steps=1, seed=1), tmp_path)


def test_training_goes_on_from_a_generator(faces, tmp_path):
    train(faces, TINY, tmp_path / "first")
    start = tmp_path / "first/generator"
    onward = replace(TINY, vae_steps=0, steps=2, lr=1e-6, seed=1)
    train(faces, onward, tmp_path / "second", start)
    before, after = (weights(folder / "generator") for folder in (tmp_path / "first", tmp_path / "second"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-4, rtol=1e-3)
        if name.startswith("vae"):
            assert torch.equal(after[name], weight), name  # of no steps of its own
    for path in (tmp_path / "second/generator").rglob("*.json"):
        assert str(tmp_path) not in path.read_text(), path
    with pytest.raises(StoreError, match=r"denoiser\.pt: of other knobs or data"):
        train(faces, onward, tmp_path / "second")


def test_bf16_trains(faces, tmp_path):
    train(faces, replace(TINY, vae_steps=2, steps=2, bf16=True), tmp_path)
    assert np.isfinite(torch.load(tmp_path / "denoiser.pt")["losses"]).all()
