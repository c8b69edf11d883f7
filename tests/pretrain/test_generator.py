import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from pretrain import generator
from pretrain.generator import (
    LENGTH,
    STAGE,
    Training,
    batch_rows,
    create_denoiser,
    create_tokenizer,
    create_vae,
    crop,
    fit,
    pyramid_l1,
    read_examples,
    samples,
    schedule,
    train,
)
from stages.store import StoreError, encode, entries, write_shard
from stages.training import Loop
from stages.transfer.arc2face.pipeline import PROMPT, Arc2FacePipeline

TINY = Training(
    size=16,
    vae_channels=(4, 8),
    latent_channels=2,
    unet_channels=(8, 8, 8),
    text_layers=1,
    vae_steps=3,
    vae_crop=8,
    vae_whole=1,
    steps=4,
    batch_size=8,
    bf16=False,
)


class Colours:
    """An encoder that tells a face by its mean colour."""

    def __init__(self, path):
        self.path = path

    def embed(self, images):
        colour = np.stack(images).mean(axis=(1, 2)) / 255
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
        write_shard(root / f"{shard}.h5", columns, images)
    return root


@pytest.fixture
def examples(folder):
    return read_examples(folder, folder / "encoder.onnx")


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


def test_faces_meet_their_vectors(examples):
    assert len(examples.faces) == 24
    torch.testing.assert_close(examples.vectors.norm(dim=1), torch.ones(24))
    pixels = examples.pixels(np.arange(24), 16)
    assert pixels.shape == (24, 3, 16, 16)
    colour = (pixels.mean(dim=(2, 3)) + 1) / 2
    torch.testing.assert_close(colour, examples.vectors[:, :3] / examples.vectors[:, 3:4], atol=0.03, rtol=0)
    assert examples.pixels(np.arange(2), 8).shape == (2, 3, 8, 8)
    for row in range(0, 24, 2):  # two images a person
        mean = F.normalize(examples.vectors[row : row + 2].mean(dim=0), dim=0)
        torch.testing.assert_close(examples.prototypes[row : row + 2], mean.expand(2, -1))


def test_embeddings_are_kept_until_the_encoder_changes(folder, tmp_path, monkeypatch):
    calls, embed = [], Colours.embed
    monkeypatch.setattr(Colours, "embed", lambda self, images: calls.append(1) or embed(self, images))
    encoder = tmp_path / "encoder.onnx"
    encoder.write_bytes(b"one")
    first, second = (read_examples(folder, encoder) for _ in range(2))
    assert len(calls) == 1
    assert first.digest == second.digest
    torch.testing.assert_close(first.vectors, second.vectors)
    encoder.write_bytes(b"two")
    assert read_examples(folder, encoder).digest != first.digest
    assert len(calls) == 2


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="no set of faces"):
        read_examples(tmp_path / "none", tmp_path / "encoder.onnx")


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


def line(lr=0.1, knobs=TINY, steps=5, key="0" * 64):
    """Fit a line."""
    torch.manual_seed(0)
    model, data = torch.nn.Linear(1, 1), torch.linspace(-1, 1, 8)[:, None]
    loss = fit("line", model, lambda *_: F.mse_loss(model(data), 3 * data + 1), steps, 8, lr, knobs, key)
    return model, data, loss


def test_the_average_and_the_optimizer_are_the_textbooks():
    """A line fitted by hand: AdamW, the moving average of its weights, and the learning rate of each step."""
    knobs = replace(TINY, warmup=0.0, ema=0.9)
    torch.manual_seed(0)
    weights = list(torch.nn.Linear(1, 1).parameters())
    model, data, last = line(knobs=knobs)
    optimizer = torch.optim.AdamW(weights, lr=0.1, betas=(0.9, 0.99), weight_decay=1e-4)
    average = [weight.detach().clone() for weight in weights]
    losses = []
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 * schedule(step, 5, 0.0)
        optimizer.zero_grad()
        loss = F.mse_loss(data @ weights[0].T + weights[1], 3 * data + 1)
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        decay = min(0.9, (1 + step) / (10 + step))
        average = [decay * old + (1 - decay) * new.detach() for old, new in zip(average, weights, strict=True)]
    for parameter, expected in zip(model.parameters(), average, strict=True):
        torch.testing.assert_close(parameter.detach(), expected)
    assert last == pytest.approx(np.mean(losses))


def test_what_was_trained_is_loaded(monkeypatch):
    first, _, loss = line()
    monkeypatch.setattr(Loop, "__iter__", lambda self: pytest.fail("trained again"))
    again, _, same = line()
    assert same == loss
    assert torch.equal(first.weight, again.weight)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        line(key="1" * 64)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_lowers_the_loss_and_saves_what_loads(examples, tmp_path, monkeypatch, prediction):
    curves, means = [], Loop.means
    monkeypatch.setattr(Loop, "means", lambda self: curves.append(self.curve["loss"]) or means(self))
    larger = {"vae_channels": (8, 16), "unet_channels": (16, 16, 16), "vae_lr": 3e-3, "lr": 3e-3}
    training = replace(TINY, vae_steps=40, steps=80, prediction=prediction, **larger)
    pipeline = train(examples, training, tmp_path)
    for losses in curves:
        assert losses[-10:].mean() < 0.8 * losses[:5].mean()
    assert len(curves) == 2
    loaded = Arc2FacePipeline.from_pretrained(tmp_path / "generator", dtype=torch.float32, low_cpu_mem_usage=False)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.scheduler.config.prediction_type == prediction
    images = [
        each(examples.vectors[:3], [torch.Generator().manual_seed(n) for n in range(3)], steps=3).int()
        for each in (pipeline, loaded)
    ]
    assert images[0].shape == (3, 16, 16, 3)
    assert (images[0] - images[1]).abs().float().mean() < 3  # of 255: fp16 weights
    size = (tmp_path / "generator/unet/diffusion_pytorch_model.safetensors").stat().st_size
    assert size < 2.1 * sum(parameter.numel() for parameter in pipeline.unet.parameters()) + 50_000
    page = samples(pipeline, examples, rows=2, columns=2)
    assert page.ndim == 3
    assert page.std() > 10


def test_a_resumed_training_gives_the_same_bits(examples, tmp_path, monkeypatch):
    train(examples, TINY, tmp_path / "whole")
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "another"))
    schedule_of, steps = schedule, []

    def killed(step, *arguments):
        steps.append(step)
        if len(steps) == 6:  # in the second phase
            raise KeyboardInterrupt
        return schedule_of(step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(generator, "schedule", killed)
        patch.setattr("stages.training.loop.time.monotonic", lambda: 1e6 * len(steps))  # a checkpoint every step
        with pytest.raises(KeyboardInterrupt):
            train(examples, TINY, tmp_path / "resumed")
    starts = []
    build = Loop.__init__
    monkeypatch.setattr(Loop, "__init__", lambda self, *a, **k: (build(self, *a, **k), starts.append(self.start))[0])
    train(examples, TINY, tmp_path / "resumed")
    assert starts == [2]  # the VAE was there already
    assert state(tmp_path / "resumed/generator") == state(tmp_path / "whole/generator")


def test_another_denoiser_takes_the_same_vae(examples, tmp_path):
    train(examples, replace(TINY, steps=1), tmp_path)
    train(examples, replace(TINY, steps=1, lr=1e-3), tmp_path)
    names = sorted(entry.path.stem for entry in entries(STAGE))
    assert names == ["denoiser", "denoiser", "embeddings", "vae"]


def test_training_goes_on_from_a_generator(examples, tmp_path):
    train(examples, TINY, tmp_path / "first")
    start = tmp_path / "first/generator"
    onward = replace(TINY, vae_steps=0, steps=2, lr=1e-6, seed=1)
    train(examples, onward, tmp_path / "second", start)
    before, after = (weights(folder / "generator") for folder in (tmp_path / "first", tmp_path / "second"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-4, rtol=1e-3)
        if name.startswith("vae"):
            assert torch.equal(after[name], weight), name  # of no steps of its own
    for path in (tmp_path / "second/generator").rglob("*.json"):
        assert str(tmp_path) not in path.read_text(), path


def test_a_part_that_lacks_a_tensor_is_no_start(examples, tmp_path):
    """`from_pretrained` would fill it with random numbers."""
    from safetensors.torch import save_file

    train(examples, replace(TINY, vae_steps=1, steps=1), tmp_path)
    for part in ("text_encoder/model", "unet/diffusion_pytorch_model"):
        path = tmp_path / f"generator/{part}.safetensors"
        whole, state = path.read_bytes(), load_file(path)
        state.pop(next(iter(state)))
        os.unlink(path)
        save_file(state, path, metadata={"format": "pt"})
        with pytest.raises(RuntimeError, match="Missing key"):
            generator.load_denoiser(tmp_path / "generator")
        path.write_bytes(whole)
    generator.load_denoiser(tmp_path / "generator")


def test_bf16_trains(examples, tmp_path):
    train(examples, replace(TINY, vae_steps=2, steps=2, bf16=True), tmp_path)
