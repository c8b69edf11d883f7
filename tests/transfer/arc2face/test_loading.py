"""Every weight of a generator or none: nothing is drawn at random in silence."""

import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from stages.knobs import ParamsError
from stages.store import StoreError
from stages.transfer.arc2face.knobs import Knobs
from stages.transfer.arc2face.loading import load_pipeline
from tests.transfer.arc2face.tiny import pipeline

UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "generator"
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(generator, tmp_path):
    shutil.copytree(generator, tmp_path / "generator")
    return tmp_path / "generator"


def load(folder, **knobs):
    return load_pipeline(Knobs(weights="generator", device="cpu", **knobs), folder.parent)


def rewrite(path, change):
    state = change(load_file(path))
    path.unlink()
    save_file(state, path, metadata={"format": "pt"})


def assert_equal(loaded):
    original = pipeline()
    for name in ("unet", "vae", "text_encoder"):
        expected, found = getattr(original, name).state_dict(), getattr(loaded, name).state_dict()
        assert all(torch.equal(found[key], weight) for key, weight in expected.items())


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            TEXT,
            lambda s: {f"base.{k}": v for k, v in s.items()},
            r"text_encoder: .*lacks .*; has in addition base",
        ),
        (UNET, lambda s: {k: v for k, v in s.items() if k != "conv_out.weight"}, r"unet: .*lacks conv_out\.weight"),
        (VAE, lambda s: s | {"x.y": torch.zeros(1)}, r"vae: .*has in addition x\.y"),
        (VAE, lambda s: s | {"encoder.conv_in.bias": torch.zeros(3)}, r"vae: .*encoder\.conv_in\.bias"),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_an_error(folder, part, change, message):
    rewrite(folder / part, change)
    with pytest.raises(StoreError, match=f"(?s){message}"):
        load(folder)


def test_the_older_names_of_a_text_tower_are_read(folder):
    rewrite(folder / TEXT, lambda s: {f"text_model.{k.removeprefix('text_model.')}": v for k, v in s.items()})
    assert_equal(load(folder))


def test_a_variant_and_shards_are_read(folder):
    for path in list(folder.rglob("*.safetensors")):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    assert_equal(load(folder))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", variant="fp16")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 2
    assert_equal(load(folder))


@pytest.mark.parametrize("part", ["tokenizer", "unet", "vae", "text_encoder", "scheduler"])
def test_a_part_that_is_missing_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(StoreError, match=f"{part}: not found"):
        load(folder)


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_weights_that_are_missing_or_broken_are_named(folder, content):
    (folder / UNET).unlink()
    if content:
        (folder / UNET).write_bytes(content)
    with pytest.raises(StoreError, match="unet: holds no weights"):
        load(folder)


def test_a_tokenizer_without_its_words_is_named(folder):
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match=r"tokenizer: no tokenizer\.json"):
        load(folder)


def test_a_lora_of_another_model_is_refused(folder):
    """One pair of matrices fits and one does not: diffusers takes the one in silence."""
    fits = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"{fits}.lora_A.weight": torch.zeros(1, 8), f"{fits}.lora_B.weight": torch.zeros(8, 1)}
    save_file(state, folder.parent / "whole.safetensors")
    assert_equal(load(folder, lora="whole.safetensors"))
    other = fits.replace("blocks.0.attentions.0", "blocks.7.attentions.0")
    state |= {key.replace(fits, other): weight.clone() for key, weight in state.items()}
    save_file(state, folder.parent / "other.safetensors")
    with pytest.raises(StoreError, match=r"other\.safetensors: 2 of its 4 tensors fit"):
        load(folder, lora="other.safetensors")


@pytest.mark.parametrize("name", ["Foo", "AutoencoderKL", "FlowMatchEulerDiscreteScheduler"])
def test_an_unknown_scheduler_is_refused_with_the_parameters(name):
    with pytest.raises(ParamsError, match=f"transfer.scheduler is '{name}': one of .*'DDIMScheduler'"):
        Knobs(scheduler=name)
