import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, PNDMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from stages.store import StoreError
from stages.transfer.ddim import Inversion, Prior, apply, load_prior
from tests.transfer.ddim.tiny import UNET, write_prior


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_a_pipeline_as_diffusers_writes_it(tmp_path, scheduler):
    unet = UNet2DModel(**UNET)
    DDPMPipeline(unet, scheduler()).save_pretrained(tmp_path)
    prior = load_prior(tmp_path)
    assert prior.size == 8
    assert not prior.unet.training
    for name, value in unet.state_dict().items():
        assert torch.equal(prior.unet.state_dict()[name], value), name
    torch.testing.assert_close(prior.schedulers(10)[1].alphas_cumprod, scheduler().alphas_cumprod)


def test_the_noise_schedule_is_the_folders(tmp_path):
    write_prior(tmp_path, scheduler=lambda: DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample"))
    for scheduler in load_prior(tmp_path).schedulers(10):
        assert scheduler.config.prediction_type == "sample"
        torch.testing.assert_close(
            scheduler.alphas_cumprod, DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
        )


def test_latents_go_in_and_out(tmp_path):
    prior = load_prior(write_prior(tmp_path, "vae"))
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = prior.encode(pixels)
        moments = prior.autoencoder.quant_conv(prior.autoencoder.encoder(pixels))
        torch.testing.assert_close(latents, moments[:, :4] * 0.18215)
        torch.testing.assert_close(prior.decode(latents), prior.autoencoder.decode(latents / 0.18215).sample)


def test_latents_are_centred_where_the_autoencoder_says(tmp_path):
    prior = load_prior(write_prior(tmp_path, "vae"))
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        plain, image = prior.encode(pixels), prior.decode(torch.zeros(1, 4, 8, 8))
        prior.autoencoder.register_to_config(shift_factor=0.3)
        torch.testing.assert_close(prior.encode(pixels), plain - 0.3 * 0.18215)
        torch.testing.assert_close(prior.decode(torch.full((1, 4, 8, 8), -0.3 * 0.18215)), image)


def test_the_layout_of_2022(tmp_path):
    """What google/ddpm-* has: a .bin, and the attention's old names."""
    attention = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": None}
    prior = load_prior(write_prior(tmp_path, **attention))
    path = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    state, old = load_file(path), {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name in list(state):
        for new, before in old.items():
            if f".{new}." in name:
                state[name.replace(new, before)] = state.pop(name)
    assert sum("query" in name for name in state) == 4
    path.unlink()
    torch.save(state, path.with_suffix(".bin"))
    again = load_prior(tmp_path)
    for name, value in prior.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], value), name


def test_without_safetensors(tmp_path):
    unet = UNet2DModel(**UNET)
    write_prior(tmp_path)
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save(unet.state_dict(), tmp_path / "unet/diffusion_pytorch_model.bin")
    assert torch.equal(load_prior(tmp_path).unet.conv_in.weight, unet.conv_in.weight)


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


def test_a_folder_runs_nothing(tmp_path):
    write_prior(tmp_path)
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Payload()}, tmp_path / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(StoreError, match="unet: not a readable UNet2DModel"):
        load_prior(tmp_path)
    assert not Payload.ran


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_a_missing_part_is_named(tmp_path, part):
    shutil.rmtree(write_prior(tmp_path) / part)
    with pytest.raises(StoreError, match=f"no {part}/"):
        load_prior(tmp_path)


@pytest.mark.parametrize(("drop", "add"), [("conv_in.bias", None), (None, "extra.weight")])
def test_weights_that_do_not_fit_are_named(tmp_path, drop, add):
    path = write_prior(tmp_path) / "unet/diffusion_pytorch_model.safetensors"
    state = {name: value for name, value in load_file(path).items() if name != drop}
    save_file({**state, **({add: torch.zeros(1)} if add else {})}, path, {"format": "pt"})
    with pytest.raises(StoreError, match=rf"unet: .*1 {'missing' if drop else 'unexpected'} \({drop or add}"):
        load_prior(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "broken"),
        ("unet/config.json", "{"),
        ("scheduler/scheduler_config.json", "{"),
        ("scheduler/scheduler_config.json", json.dumps({"beta_schedule": "unheard of"})),
        ("unet/config.json", json.dumps({"_class_name": "UNet2DConditionModel"})),
    ],
)
def test_broken_files_are_named(tmp_path, file, content):
    (write_prior(tmp_path) / file).write_text(content)
    with pytest.raises(StoreError, match=file.split("/")[0]):
        load_prior(tmp_path)


def test_channels_must_agree(tmp_path):
    write_prior(tmp_path, in_channels=4)
    with pytest.raises(StoreError, match="reads 4 channels, where the images have 3"):
        load_prior(tmp_path)


def test_moving_to_a_device(tmp_path):
    prior = load_prior(write_prior(tmp_path, "vae")).to("meta")
    assert isinstance(prior, Prior)
    assert {prior.unet.device.type, prior.autoencoder.device.type} == {"meta"}


def test_one_image_as_the_scheduler_has_it(tmp_path):
    """The whole way with diffusers' own loop, in uint8."""
    prior = load_prior(write_prior(tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    inverse, forward = prior.schedulers(4)
    with torch.no_grad():
        for scheduler in (inverse, forward):
            for time in scheduler.timesteps:
                x = scheduler.step(prior.unet(x, time).sample, time, x).prev_sample
    expected = ((x.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(apply(prior, image, Inversion(4)) - expected).max() < 0.52
