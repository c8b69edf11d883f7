import hashlib
from typing import get_args

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from stages.transfer.arc2face.knobs import Scheduler
from stages.transfer.arc2face.pipeline import PROMPT, Arc2FacePipeline, text_states
from tests.transfer.arc2face.tiny import (
    DIMENSION,
    LENGTH,
    SD15_TEXT,
    SD15_UNET,
    SD15_VAE,
    WIDTH,
    generators,
    pipeline,
    vectors,
    write_official,
)


@pytest.fixture(scope="module")
def made():
    return pipeline()


@pytest.fixture
def fresh():
    """A pipeline that a test may change."""
    return pipeline()


def tower(text_encoder, tokens, vector):
    """CLIP's text tower in float64, one token at a time, with the vector in the place of the token `id`."""
    w = {name: x.double().numpy() for name, x in text_encoder.state_dict().items()}
    config = text_encoder.config

    def norm(x, name):
        x = (x - x.mean()) / np.sqrt(x.var() + config.layer_norm_eps)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    x = [w["embeddings.token_embedding.weight"][token] for token in tokens]
    x[4] = np.concatenate([vector, np.zeros(WIDTH - len(vector))])
    x = [token + w["embeddings.position_embedding.weight"][place] for place, token in enumerate(x)]
    size = WIDTH // config.num_attention_heads
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layers.{number}"
        normed = [norm(token, f"{layer}.layer_norm1") for token in x]
        q, k, v = ([linear(token, f"{layer}.self_attn.{name}_proj") for token in normed] for name in "qkv")
        for i in range(len(x)):
            heads = []
            for begin in range(0, WIDTH, size):
                part = slice(begin, begin + size)
                scores = np.array([q[i][part] @ k[j][part] / np.sqrt(size) for j in range(i + 1)])
                share = np.exp(scores - scores.max())
                heads.append(sum(s * v[j][part] for j, s in enumerate(share / share.sum())))
            x[i] = x[i] + linear(np.concatenate(heads), f"{layer}.self_attn.out_proj")
        for i, token in enumerate(x):
            hidden = linear(norm(token, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
            x[i] = token + linear(hidden / (1 + np.exp(-1.702 * hidden)), f"{layer}.mlp.fc2")
    return np.array([norm(token, "final_layer_norm") for token in x])


def test_the_identity_enters_as_in_the_official_class(made):
    tokens = made.tokenizer(PROMPT, padding="max_length", max_length=LENGTH).input_ids
    expected = [tower(made.text_encoder, tokens, vector.double().numpy()) for vector in vectors(3)]
    np.testing.assert_allclose(made.encode_identity(vectors(3)), expected, atol=2e-5)


def test_no_identity_reaches_the_rows_before_its_token(made):
    states = made.encode_identity(vectors(7))
    assert made.position == 4
    assert torch.equal(states[:, :4], states[:1, :4].expand(7, -1, -1))
    assert (states[1:, 4:] - states[:1, 4:]).abs().amax(dim=2).min() > 1e-3


def test_text_without_the_placeholder_is_text(made):
    tokens = made._tokens("")
    expected = made.text_encoder(input_ids=tokens).last_hidden_state
    assert torch.equal(text_states(made.text_encoder, tokens, made.placeholder, vectors(1)), expected)
    assert torch.equal(made.encode_unconditional(), expected)
    assert not made.text_encoder.get_input_embeddings()._forward_hooks


def test_a_batch_is_its_images_one_by_one(made):
    batch = made(vectors(5), generators(5), steps=6)
    single = [made(vectors(5)[i : i + 1], generators(1, first=i), steps=6) for i in range(5)]
    assert batch.shape == (5, 8, 8, 3)
    assert batch.dtype == torch.uint8
    assert (batch.int() - torch.cat(single).int()).abs().max() <= 1
    assert (batch[0].int() - batch[1].int()).abs().max() > 20


def test_an_image_depends_on_its_noise_and_its_identity(made):
    one, other = vectors(2)
    same, noise, identity = made(torch.stack([one, one, other]), [*generators(1), *generators(1, 9), *generators(1)])
    assert not torch.equal(same, noise)
    assert not torch.equal(same, identity)


def test_the_unconditional_branch_is_encoded_once(fresh):
    runs = []
    fresh.text_encoder.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(3):
        fresh(vectors(2), generators(2), steps=2)
    assert len(runs) == 4


def test_guidance_moves_away_from_the_unconditional(fresh, monkeypatch):
    """With a UNet that answers with its condition's mean, DDIM's single step has a closed form."""
    monkeypatch.setattr(
        fresh.unet,
        "forward",
        lambda x, step, encoder_hidden_states, return_dict: (
            encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None].expand_as(x),
        ),
    )
    fresh.use_scheduler("DDIMScheduler", clip_sample=False, set_alpha_to_one=True)
    fresh.scheduler.set_timesteps(1)
    latents = fresh.prepare_latents(generators(2), 8, 8)
    conditional, unconditional = fresh.encode_identity(vectors(2)), fresh.encode_unconditional()
    signal = fresh.scheduler.alphas_cumprod[fresh.scheduler.timesteps[0]].double().sqrt()
    for guidance in (1.0, 3.0):
        noise = unconditional.mean() + guidance * (conditional.mean(dim=(1, 2)) - unconditional.mean())
        expected = (latents - (1 - signal**2).sqrt() * noise.double()[:, None, None, None]) / signal
        got = fresh.denoise(latents, conditional, None if guidance == 1 else unconditional, guidance, generators(2))
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_gap_is_added_to_the_branch_it_is_meant_for(fresh, monkeypatch):
    seen = []

    def denoise(latents, conditional, unconditional, guidance, generators):
        seen.append((conditional, unconditional))
        return latents

    monkeypatch.setattr(fresh, "denoise", denoise)
    shift = torch.randn(LENGTH, WIDTH)
    for options in ({}, {"shift": shift}, {"shift": shift, "unconditional_shift": 2 * shift}):
        fresh(vectors(2), generators(2), **options)
    (plain, empty), (shifted, untouched), (_, both) = seen
    torch.testing.assert_close(shifted - plain, shift.expand(2, -1, -1))
    assert torch.equal(untouched, empty)
    torch.testing.assert_close(both - empty, 2 * shift[None])


def test_slices_of_the_decoder_change_nothing(made):
    latents = torch.randn(5, 4, 4, 4)
    with torch.no_grad():
        pixels = made.vae.decode(latents / made.vae.config.scaling_factor).sample
    expected = ((pixels.double().numpy().transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255).round()
    for size in (1, 2, 5, 8):
        assert np.abs(made.decode(latents, size).numpy() - expected).max() <= 1


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_official_folders_load(made, tmp_path, form):
    arc2face, base = write_official(pipeline(), tmp_path, form)
    loaded = Arc2FacePipeline.from_official(arc2face, base, low_cpu_mem_usage=False)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler).__name__ == "PNDMScheduler"
    loaded.use_scheduler("DPMSolverMultistepScheduler")
    assert torch.equal(loaded(vectors(2), generators(2), steps=3), made(vectors(2), generators(2), steps=3))

    scheduler = loaded.scheduler  # of Stable Diffusion 1.5's configuration, resolved as the official demo does
    scheduler.set_timesteps(25)
    assert scheduler.timesteps.tolist() == [999, *range(959, 500, -40), *range(480, 0, -40)]
    np.testing.assert_allclose(scheduler.sigmas[[0, -2, -1]], [14.61465, 0.19906, 0], rtol=1e-5)
    assert (scheduler.config.algorithm_type, scheduler.config.solver_order) == ("dpmsolver++", 2)


def test_a_missing_part_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="arc2face/arc2face: not found"):
        Arc2FacePipeline.from_official(tmp_path / "arc2face", tmp_path)


def test_what_is_saved_loads(made, tmp_path):
    made.save_pretrained(tmp_path)
    loaded = Arc2FacePipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(loaded(vectors(2), generators(2), steps=3), made(vectors(2), generators(2), steps=3))


@pytest.mark.parametrize("name", get_args(Scheduler))
def test_any_scheduler_by_name_keeps_schedule_and_images_apart(fresh, name):
    before = {"beta_start": 1e-3, "beta_end": 0.02, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
    fresh.scheduler = diffusers.DPMSolverMultistepScheduler(**before)
    fresh.use_scheduler(name, **({"skip_prk_steps": True} if name == "PNDMScheduler" else {}))
    assert type(fresh.scheduler) is getattr(diffusers, name)
    assert {knob: fresh.scheduler.config[knob] for knob in before} == before
    beta = np.linspace(1e-3**0.5, 0.02**0.5, 1000) ** 2
    np.testing.assert_allclose(fresh.scheduler.alphas_cumprod, np.cumprod(1 - beta), rtol=1e-4)
    batch = fresh(vectors(3), generators(3), steps=4)
    single = [fresh(vectors(3)[i : i + 1], generators(1, first=i), steps=4) for i in range(3)]
    assert (batch.int() - torch.cat(single).int()).abs().max() <= 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision_is_near(made, dtype, tolerance):
    half = pipeline().to(dtype=dtype)
    full, rounded = (each.encode_identity(vectors(4)).float() for each in (made, half))
    assert (full - rounded).abs().mean() < tolerance * full.abs().mean()
    images = [each(vectors(4), generators(4), steps=5).float() for each in (made, half)]
    assert (images[0] - images[1]).abs().mean() < 255 * tolerance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vectors": torch.ones(DIMENSION)}, r"shape \[12\]"),
        ({"vectors": torch.zeros(0, DIMENSION)}, r"shape \[0, 12\]"),
        ({"vectors": torch.nn.functional.normalize(torch.ones(1, WIDTH + 1))}, "d <= 16"),
        ({"vectors": 2 * vectors(1)}, "norms from 2 to 2"),
        ({"vectors": vectors(1) * torch.nan}, "norms"),
        ({"generators": generators(2)}, "2 generators for 1 vectors"),
        ({"height": 9}, "9 x 8 px is no multiple of 2"),
        ({"steps": 0}, "steps is 0"),
        ({"shift": torch.zeros(LENGTH, 3)}, r"shape \[8, 3\]: \[8, 16\]"),
    ],
)
def test_what_cannot_be_generated_is_refused(made, arguments, message):
    good = {"vectors": vectors(1), "generators": generators(1), "height": 8, "width": 8, "steps": 2}
    with pytest.raises(ValueError, match=message):
        made(**good | arguments)


def test_parts_of_two_models_are_refused(made):
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**made.unet.config, "cross_attention_dim": 24})
    with pytest.raises(ValueError, match="16 wide and the UNet reads 24"):
        Arc2FacePipeline(made.vae, made.text_encoder, made.tokenizer, unet, made.scheduler)


def test_sd15s_configuration_has_the_official_layout():
    """Digests of `name shape` lines: 686, 248 and 196 tensors of the published files."""
    with torch.device("meta"):
        states = {
            "5159ace1d6e60acb": UNet2DConditionModel(**SD15_UNET).state_dict(),
            "600696bc94ffc80f": AutoencoderKL(**SD15_VAE).state_dict(),
            "9602ce291879ca7b": {
                f"text_model.{name}": weight
                for name, weight in CLIPTextModel(CLIPTextConfig(**SD15_TEXT)).state_dict().items()
            },
        }
    for digest, state in states.items():
        lines = "\n".join(sorted(f"{name} {tuple(weight.shape)}" for name, weight in state.items()))
        assert hashlib.sha256(lines.encode()).hexdigest().startswith(digest)
