"""Train the embedded world's generator: Arc2Face's classes with a few million weights.

    python generator.py --images generator/data/align --encoder ../stages/embed/encoder.onnx --out generator/data

First the VAE, then the UNet and the text encoder on its latents, from a set of aligned faces and what the encoder makes
of them. A killed run goes on from its last checkpoint, to the same bits; embeddings and trained parts are kept in the
cache. Under `--out`: `generator/`, a diffusers folder in fp16 with `training.json` beside its parts; `samples.png`.

Notation: n images, d dimensions of an identity vector, c x h x w latents, L tokens.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stages.embed.encoder import Encoder
from stages.images import Faces, read_faces
from stages.pictures import save_png, sheet
from stages.store import Shard, fingerprint, write_shard
from stages.training import Average, Loop, cosine, made_once, warmup
from stages.transfer.arc2face.pipeline import PLACEHOLDER, PROMPT, Arc2FacePipeline, text_states
from stages.transfer.method import seed_of

STAGE = "pretrain"  # its folder in the cache
VAE_KNOBS = ("size", "latent_channels", "warmup", "kl", "ema", "bf16", "seed")  # beside its own
LENGTH = 8  # tokens of the prompt: begin, five words, end, one of padding


@dataclass(frozen=True)
class Training:
    """Sizes and schedules."""

    size: int = 96  # px; a multiple of the VAE's factor
    vae_channels: tuple[int, ...] = (16, 32, 64, 128)  # factor 2 ** (levels - 1)
    latent_channels: int = 8  # twice Stable Diffusion's, as a small VAE keeps less in each
    unet_channels: tuple[int, ...] = (64, 112, 160)
    text_layers: int = 1
    vae_steps: int = 5500
    vae_batch_size: int = 8
    vae_crop: int = 48  # px, of all but the last `vae_whole` steps: more faces seen in the same time
    vae_whole: int = 500  # steps on whole images, whose norms' statistics the crops do not show
    vae_lr: float = 1e-3
    steps: int = 7000
    batch_size: int = 32
    lr: float = 5e-4
    warmup: float = 0.02  # share of the steps; a cosine to zero follows
    kl: float = 1e-6
    drop: float = 0.1  # share of the images trained on the empty prompt, for guidance
    prediction: str = "v_prediction"  # epsilon | v_prediction
    snr: float = 5.0  # the loss of a step weighs min(SNR, this) of the noise (Hang et al., 2023): all steps learn alike
    ema: float = 0.999
    bf16: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Examples:
    """n faces and their identity vectors."""

    faces: Faces
    vectors: torch.Tensor  # [n, d] float32, unit norm
    prototypes: torch.Tensor  # [n, d] float32, unit norm: the mean of the vectors of an image's person
    digest: str

    def pixels(self, rows: np.ndarray, size: int) -> torch.Tensor:
        """Images of these rows: [len(rows), 3, size, size] float32 in [-1, 1]."""
        images = []
        for row in rows.tolist():
            image = Image.fromarray(self.faces.image(row))
            images.append(
                np.asarray(image if image.size == (size, size) else image.resize((size, size), Image.LANCZOS))
            )
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_examples(path: Path, encoder: Path) -> Examples:
    """Read a set of aligned faces, and embed it if it is not embedded yet.

    Args:
        path: of the set.
        encoder: an ONNX file of the identity encoder.

    Raises:
        StoreError: no set, or no encoder.
    """
    faces = read_faces(path)
    key = fingerprint(faces.digest(), encoder)

    def embed(draft: Path) -> dict[str, float]:
        network = Encoder(encoder)
        parts = np.array_split(np.arange(len(faces)), math.ceil(len(faces) / 256))
        embeddings = [network.embed([faces.image(row) for row in rows]) for rows in tqdm(parts, desc="embed")]
        write_shard(draft, {"embedding": np.concatenate(embeddings)})
        return {}

    with Shard(made_once(STAGE, key, "embeddings.h5", embed).path) as shard:
        unit = F.normalize(torch.from_numpy(shard["embedding"]), dim=1)
    _, person = np.unique(faces.identity, return_inverse=True)
    index = torch.from_numpy(person)
    sums = torch.zeros(int(index.max()) + 1, unit.shape[1]).index_add_(0, index, unit)
    return Examples(faces, unit, F.normalize(sums, dim=1)[index], key)


def create_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair encoding with just enough merges to make one token of each word of the prompt."""
    letters = sorted({letter for word in PROMPT.split() for letter in word})
    tokens = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters)])
    merges = {}
    for word in PROMPT.split():
        left, *rest = [*word[:-1], f"{word[-1]}</w>"]
        for right in rest:
            merges[left, right] = None
            left += right
            tokens[left] = None
    tokens |= dict.fromkeys(["<|startoftext|>", "<|endoftext|>"])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=LENGTH)


def create_vae(training: Training) -> AutoencoderKL:
    """A small AutoencoderKL."""
    levels = len(training.vae_channels)
    return AutoencoderKL(
        block_out_channels=training.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=training.latent_channels,
        norm_num_groups=2,  # of few channels each, groups would take an image's colour away
        mid_block_add_attention=False,  # so that what it learns on crops holds for whole images
        sample_size=training.size,
    )


def create_denoiser(training: Training, tokenizer: CLIPTokenizer, dimension: int) -> nn.ModuleDict:
    """The UNet and the text encoder, whose width is the next multiple of 64 that holds an identity vector."""
    width = 64 * math.ceil(dimension / 64)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=training.text_layers,
            num_attention_heads=width // 64,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    levels = len(training.unet_channels)
    unet = UNet2DConditionModel(
        sample_size=training.size // 2 ** (len(training.vae_channels) - 1),
        in_channels=training.latent_channels,
        out_channels=training.latent_channels,
        block_out_channels=training.unet_channels,
        layers_per_block=1,
        # attention in the middle only: at the highest resolution it would take half of the time
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 2) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 2) + ("UpBlock2D",),
        cross_attention_dim=width,
        attention_head_dim=4,  # heads, in spite of its name in diffusers
        norm_num_groups=8,
    )
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


def load_denoiser(folder: Path) -> nn.ModuleDict:
    """The UNet and the text encoder of a generator's folder."""
    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    load_model(text_encoder, folder / "text_encoder/model.safetensors")
    return nn.ModuleDict({"unet": load_part(UNet2DConditionModel, folder / "unet"), "text_encoder": text_encoder})


def load_part(kind: type, folder: Path) -> Any:
    """A diffusers model in fp32; `from_pretrained` would write the folder's path into what is saved of it."""
    part = kind.from_config(kind.load_config(folder))
    load_model(part, folder / "diffusion_pytorch_model.safetensors")
    return part


def pyramid_l1(output: torch.Tensor, target: torch.Tensor, levels: int = 3) -> torch.Tensor:
    """L1 distance of the Laplacian pyramids of [n, 3, h, w]: plain L1 lets fine detail blur, as it weighs little."""
    error = output - target
    loss = error.new_zeros(())
    for _ in range(levels):
        coarse = F.avg_pool2d(error, 2, ceil_mode=True)
        fine = error - F.interpolate(coarse, size=error.shape[-2:], mode="bilinear", align_corners=False)
        loss = loss + fine.abs().mean()
        error = coarse
    return loss + error.abs().mean()


def batch_rows(count: int, size: int, step: int, seed: int, name: str) -> np.ndarray:
    """Rows of a step's batch: each epoch is a permutation of its own, seeded by its number."""
    size = min(size, count)
    epoch, place = divmod(step, count // size)
    order = np.random.default_rng(seed_of(seed, name, epoch)).permutation(count)
    return order[place * size : (place + 1) * size]


def schedule(step: int, steps: int, share: float) -> float:
    """Factor of the learning rate: linear up over the first share of the steps, a cosine down to zero."""
    rise = max(1, round(share * steps))
    return warmup(step + 1, rise) if step < rise else cosine(step - rise, max(1, steps - rise))


def fit(
    name: str,
    model: nn.Module,
    loss_of: Callable[[int, torch.Generator], torch.Tensor],
    steps: int,
    batch: int,
    lr: float,
    training: Training,
    key: str,
) -> float | None:
    """Train a model with AdamW, and leave the moving average of its weights in it; what was trained before is loaded.

    Args:
        name: of the model.
        model: trained in place.
        loss_of: the loss of a step; all its randomness comes from the generator it is given, which is seeded by the
            step, so that a resumed run needs no random state.
        steps: in all.
        batch: images of a step.
        lr: the highest learning rate.
        training: its schedule and moving average.
        key: fingerprint of all that the training depends on.

    Returns:
        The mean loss of the last 100 steps.
    """

    def learn(path: Path) -> dict[str, float]:
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
        average = Average(model, training.ema)
        parts = {"model": model, "optimizer": optimizer, "average": average}
        loop = Loop(STAGE, key, parts, steps, batch=batch, title=name)
        model.train()
        for step in loop:
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(step, steps, training.warmup)
            loss = loss_of(step, torch.Generator().manual_seed(seed_of(training.seed, name, step)))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average.update(model, step)
            loop.record(loss=loss)
        average.copy_to(model)
        save_model(model, str(path))
        return loop.means() if steps else {}

    entry = made_once(STAGE, key, f"{name}.safetensors", learn)
    load_model(model, entry.path)
    model.eval()
    return entry.numbers.get("loss")


def train_vae(
    examples: Examples, training: Training, origin: list[str], start: Path | None, device: str
) -> tuple[Any, float | None]:
    """The VAE, trained to give images back, and its loss; with no steps of its own it stays what it is."""
    of_vae = {name: value for name, value in asdict(training).items() if name.startswith("vae") or name in VAE_KNOBS}
    mixed = autocast(training, device)
    torch.manual_seed(seed_of(training.seed, "vae"))
    vae: Any = load_part(AutoencoderKL, start / "vae") if start else create_vae(training)
    vae.to(device)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = batch_rows(len(examples.faces), training.vae_batch_size, step, training.seed, "vae")
        pixels = examples.pixels(rows, training.size)
        if step < training.vae_steps - training.vae_whole:
            pixels = crop(pixels, training.vae_crop, generator)
        pixels = pixels.to(device)
        with torch.autocast(**mixed):
            posterior = vae.encode(pixels).latent_dist
            output = vae.decode(posterior.sample(generator)).sample
        return pyramid_l1(output.float(), pixels) + training.kl * posterior.kl().float().mean()

    key = fingerprint(Path(__file__), of_vae, examples.digest, origin, mixed["device_type"], "vae")
    steps, batch = training.vae_steps, training.vae_batch_size
    return vae, fit("vae", vae, loss_of, steps, batch, training.vae_lr, training, key)


def train_denoiser(
    examples: Examples,
    latents: torch.Tensor,
    noising: DDPMScheduler,
    tokenizer: CLIPTokenizer,
    training: Training,
    origin: list[str],
    start: Path | None,
    device: str,
) -> tuple[nn.ModuleDict, float | None]:
    """The UNet and the text encoder, trained to denoise latents [n, c, h, w] given their vectors, and their loss."""
    mixed = autocast(training, device)
    torch.manual_seed(seed_of(training.seed, "denoiser"))
    model = load_denoiser(start) if start else create_denoiser(training, tokenizer, examples.vectors.shape[1])
    model.to(device)
    ratio = noising.alphas_cumprod / (1 - noising.alphas_cumprod)  # the signal-to-noise ratio of a step
    weight = ratio.clamp(max=training.snr) / (ratio if training.prediction == "epsilon" else ratio + 1)
    prompt, empty = (
        torch.tensor(tokenizer(text, padding="max_length", max_length=LENGTH).input_ids, device=device)
        for text in (PROMPT, "")
    )
    placeholder = tokenizer.encode(PLACEHOLDER, add_special_tokens=False)[0]

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = batch_rows(len(examples.faces), training.batch_size, step, training.seed, "denoiser")
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        time = torch.randint(noising.config.num_train_timesteps, (len(rows),), generator=generator)
        drop = torch.rand(len(rows), generator=generator) < training.drop
        # between the person and the image, as the sampling will ask
        way = torch.rand(len(rows), 1, generator=generator)
        vectors = F.normalize(torch.lerp(examples.prototypes[rows], examples.vectors[rows], way), dim=1)
        goal = noise if training.prediction == "epsilon" else noising.get_velocity(clean, noise, time)
        noisy = noising.add_noise(clean, noise, time).to(device)
        tokens = torch.where(drop[:, None].to(device), empty, prompt)
        with torch.autocast(**mixed):
            states = text_states(model["text_encoder"], tokens, placeholder, vectors.to(device))
            output = model["unet"](noisy, time.to(device), encoder_hidden_states=states).sample
        error = (output.float() - goal.to(device)).square().mean(dim=(1, 2, 3))
        return (weight[time].to(device) * error).mean()

    key = fingerprint(Path(__file__), training, examples.digest, origin, mixed["device_type"], "denoiser")
    return model, fit("denoiser", model, loss_of, training.steps, training.batch_size, training.lr, training, key)


def train(
    examples: Examples, training: Training, out: Path, start: Path | None = None, device: str = "cpu"
) -> Arc2FacePipeline:
    """Train the VAE, then the UNet with the text encoder, and save the pipeline to `out/generator`.

    Args:
        examples: images and identity vectors.
        training: sizes and schedules.
        out: the folder of results.
        start: a generator's folder whose weights, and their sizes, the training starts from; random weights without.
        device: of torch.

    Returns:
        The pipeline, as it was saved but in fp32.
    """
    began = time.perf_counter()
    origin = [fingerprint(path) for path in sorted(start.rglob("*.safetensors"))] if start else []
    vae, vae_loss = train_vae(examples, training, origin, start, device)
    latents = encode_all(vae, examples, training)
    mean, std = latents.mean().item(), latents.std().item()
    vae.register_to_config(scaling_factor=1 / std, shift_factor=mean)

    tokenizer = create_tokenizer()
    noising = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=training.prediction
    )
    latents = (latents - mean) / std
    model, loss = train_denoiser(examples, latents, noising, tokenizer, training, origin, start, device)

    scheduler = DPMSolverMultistepScheduler.from_config(noising.config)
    pipeline = Arc2FacePipeline(vae, model["text_encoder"], tokenizer, model["unet"], scheduler)
    pipeline.set_progress_bar_config(disable=True)
    save(pipeline, out / "generator")
    report = {
        "training": asdict(training),
        "images": len(examples.faces),
        "data": examples.digest,
        "parameters": {
            name: sum(p.numel() for p in part.parameters())
            for name, part in pipeline.components.items()
            if isinstance(part, nn.Module)
        },
        "start": origin,
        "vae_loss": vae_loss,
        "loss": loss,
        "seconds": round(time.perf_counter() - began),
    }
    (out / "generator/training.json").write_text(json.dumps(report, indent=2) + "\n")
    return pipeline


def autocast(training: Training, device: str) -> dict[str, Any]:
    """The arguments of torch's mixed precision."""
    return {"device_type": torch.device(device).type, "dtype": torch.bfloat16, "enabled": training.bf16}


def crop(pixels: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """A square of `size` px from a random place of each image [n, c, h, w]: [n, c, size, size]."""
    places = torch.stack(
        [torch.randint(side - size + 1, (len(pixels),), generator=generator) for side in pixels.shape[2:]], dim=1
    )
    return torch.stack(
        [image[:, y : y + size, x : x + size] for image, (y, x) in zip(pixels, places.tolist(), strict=True)]
    )


@torch.no_grad()
def encode_all(vae: Any, examples: Examples, training: Training) -> torch.Tensor:
    """Latents of all images, the means of their posteriors: [n, c, h, w] float32 on the CPU."""
    count, means = len(examples.faces), []
    for rows in tqdm(np.array_split(np.arange(count), math.ceil(count / 64)), desc="latents"):
        pixels = examples.pixels(rows, training.size).to(vae.device)
        with torch.autocast(**autocast(training, vae.device.type)):
            means.append(vae.encode(pixels).latent_dist.mean.float().cpu())
    return torch.cat(means)


def save(pipeline: Arc2FacePipeline, folder: Path) -> None:
    """Save a diffusers folder in fp16, and leave the pipeline as it is."""
    halves = {
        name: copy.deepcopy(part).to(dtype=torch.float16) if isinstance(part, nn.Module) else part
        for name, part in pipeline.components.items()
    }
    Arc2FacePipeline(**halves).save_pretrained(folder)


def samples(pipeline: Arc2FacePipeline, examples: Examples, rows: int = 8, columns: int = 5) -> np.ndarray:
    """A sheet: one training image of each of `rows` people on the left, what is made of its vector beside it."""
    lines = {}
    for row in np.linspace(0, len(examples.faces) - 1, rows).astype(int).tolist():
        generators = [torch.Generator().manual_seed(number) for number in range(columns)]
        made = pipeline(examples.prototypes[row].expand(columns, -1), generators)
        lines[f"identity {examples.faces.identity[row]}"] = [examples.faces.image(row), *made.numpy()]
    return sheet(lines)


def main(
    images: Annotated[Path, typer.Option(help="A set of aligned faces.")],
    encoder: Annotated[Path, typer.Option(help="ONNX file of the identity encoder.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")],
    start: Annotated[Path | None, typer.Option(help="Folder of a generator to go on from.")] = None,
    vae_steps: int = Training.vae_steps,
    steps: int = Training.steps,
    lr: float = Training.lr,
    seed: int = Training.seed,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int = 2,
) -> None:
    """Train the embedded world's generator; `Training` states the other sizes."""
    torch.set_num_threads(threads)
    examples = read_examples(images, encoder)
    training = Training(vae_steps=vae_steps, steps=steps, lr=lr, seed=seed)
    pipeline = train(examples, training, out, start, device)
    save_png(out / "samples.png", samples(pipeline, examples))


if __name__ == "__main__":
    typer.run(main)
