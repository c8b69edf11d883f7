"""A generator of the official classes, a few thousand random weights, and embeddings of made-up people."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stages.store import write_shard
from stages.transfer.arc2face.pipeline import Arc2FacePipeline

DIMENSION = 12  # of an identity vector
WIDTH = 16
LENGTH = 8  # tokens
WORDS = ("photo", "of", "a", "id", "person")
# Stable Diffusion 1.5
SD15_UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}  # the rest is diffusers' default
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
SD15_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
# scheduler_config.json as published, which has no timestep_spacing
SD15_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair encoding with just enough merges for the words of the prompt."""
    letters = sorted(set("".join(WORDS)))
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        left, *rest = [*word[:-1], word[-1] + "</w>"]
        for right in rest:
            merges.append((left, right))
            left += right
            tokens.append(left)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(dict.fromkeys(merges)), model_max_length=LENGTH)


def pipeline(seed: int = 0, width: int = WIDTH) -> Arc2FacePipeline:
    """Random weights; the width bounds the dimensions of an identity vector."""
    torch.manual_seed(seed)
    words = tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            initializer_factor=20.0,  # so that the position and the identity have a say
        )
    )
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=8,
    )
    scheduler = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    made = Arc2FacePipeline(vae.eval(), text_encoder.eval(), words, unet.eval(), scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    """Unit identity vectors [count, DIMENSION]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, DIMENSION, generator=generator), dim=1)


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(first, first + count)]


def write_official(made: Arc2FacePipeline, folder: Path, form: str) -> tuple[Path, Path]:
    """Write a pipeline as the official folders: Arc2Face's and Stable Diffusion 1.5's."""
    base, arc2face = folder / "sd15", folder / "official"
    made.save_pretrained(base)
    arc2face.mkdir()
    (base / "text_encoder").rename(arc2face / "encoder")
    (base / "unet").rename(arc2face / "arc2face")
    index = json.loads((base / "model_index.json").read_text())
    index |= {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    }
    index |= {"scheduler": ["diffusers", "PNDMScheduler"]}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": True}
    (base / "model_index.json").write_text(json.dumps(index))
    (base / "scheduler/scheduler_config.json").write_text(json.dumps(SD15_SCHEDULER))
    if form == "bin":
        state = {f"text_model.{name}": weight for name, weight in made.text_encoder.state_dict().items()}
        state["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]  # as CLIP's files of 2023 have it
        torch.save(state, arc2face / "encoder/pytorch_model.bin")
        torch.save(made.unet.state_dict(), arc2face / "arc2face/diffusion_pytorch_model.bin")
        (arc2face / "encoder/model.safetensors").unlink()
        (arc2face / "arc2face/diffusion_pytorch_model.safetensors").unlink()
    return arc2face, base


def write_embeddings(root: Path, identities: int = 6, images: int = 4, shards: int = 2) -> None:
    """Source and target embeddings, the target's displaced, and a filter that chooses all but the last identity."""
    rng = np.random.default_rng(0)
    names = np.arange(identities) + 100
    for number, part in enumerate(np.array_split(names, shards)):
        centres = np.stack([np.random.default_rng(name).normal(size=DIMENSION) for name in part])
        embedding = np.repeat(centres, images, axis=0) + 0.3 * rng.normal(size=(len(part) * images, DIMENSION))
        columns = {
            "identity": np.repeat(part, images),
            "sample": np.tile(np.arange(images, dtype=np.int32), len(part)),
            "embedding": (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32),
        }
        write_shard(root / f"data/embed/source/subjects_{number}.h5", columns)
    target = rng.normal(size=(identities * images, DIMENSION)) + 1.0
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    write_shard(root / "data/embed/target.h5", {"embedding": target.astype(np.float32)})
    chosen = np.arange(identities) < identities - 1
    write_shard(root / "data/filter.h5", {"identity": names[::-1].copy(), "chosen": chosen})
