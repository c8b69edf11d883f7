"""Train the embedded world's generator: Arc2Face's classes with a few million weights.

    python generator.py --images data/align --embeddings data/embed --out data/generator

First the VAE, then the UNet and the text encoder on its latents, from image shards (identity, sample, images) and the
embedding shards (identity, sample, embedding) of the same people. A killed run goes on from its last checkpoint, to
the same bits. Under `--out`: `generator/`, a diffusers folder in fp16 with `training.json` beside its parts;
`samples.png`; the checkpoints.

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
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stages.store import Shard, StoreError, decode, fingerprint, replacing
from stages.transfer.arc2face.pipeline import PROMPT, Arc2FacePipeline, text_states
from stages.transfer.arc2face.sampling import seed_of

LENGTH = 8  # tokens of the prompt: begin, five words, end, one of padding


@dataclass(frozen=True)
class Training:
    """Sizes and schedules."""

    size: int = 112  # px; a multiple of the VAE's factor
    vae_channels: tuple[int, ...] = (24, 48, 72, 96)  # factor 2 ** (levels - 1)
    latent_channels: int = 8  # twice Stable Diffusion's, as a small VAE keeps less in each
    unet_channels: tuple[int, ...] = (88, 136, 176)
    text_layers: int = 2
    vae_steps: int = 20_000
    steps: int = 100_000
    batch_size: int = 64  # of the UNet; the VAE's is a quarter
    lr: float = 4e-4
    warmup: float = 0.02  # share of the steps; a cosine to zero follows
    kl: float = 1e-6
    drop: float = 0.1  # share of the images trained on the empty prompt, for guidance
    prediction: str = "epsilon"  # epsilon | v_prediction
    ema: float = 0.9995
    bf16: bool = False
    checkpoint_every: int = 1000  # steps
    seed: int = 0


@dataclass(frozen=True)
class Faces:
    """n images, encoded, and their identity vectors."""

    images: list[bytes]
    vectors: torch.Tensor  # [n, d] float32, unit norm
    names: list[str]
    fingerprint: str

    def pixels(self, rows: np.ndarray, size: int) -> torch.Tensor:
        """Images of these rows: [len(rows), 3, size, size] float32 in [-1, 1]."""
        images = []
        for row in rows.tolist():
            image = Image.fromarray(decode(self.images[row], self.names[row]))
            images.append(
                np.asarray(image if image.size == (size, size) else image.resize((size, size), Image.LANCZOS))
            )
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_faces(images: Path, embeddings: Path) -> Faces:
    """Read image shards and their embeddings, joined by identity and sample.

    Raises:
        StoreError: no shards, or an image without an embedding.
    """
    vectors: dict[tuple[int, int], np.ndarray] = {}
    seen = []
    for path in sorted(embeddings.rglob("*.h5")):
        with Shard(path) as shard:
            keys = zip(shard["identity"].tolist(), shard["sample"].tolist(), strict=True)
            vectors.update(zip(keys, shard["embedding"], strict=True))
            seen.append(shard.fingerprint)
    encoded, rows, names = [], [], []
    for path in sorted(images.glob("*.h5")):
        with Shard(path) as shard:
            seen.append(shard.fingerprint)
            for row, key in enumerate(zip(shard["identity"].tolist(), shard["sample"].tolist(), strict=True)):
                if key not in vectors:
                    raise StoreError(f"{path}, row {row}: identity {key[0]}, sample {key[1]} is not in {embeddings}")
                encoded.append(shard.encoded(row))
                rows.append(vectors[key])
                names.append(f"{path}, row {row}")
    if not encoded:
        raise StoreError(f"{images}: no image shards")
    unit = F.normalize(torch.from_numpy(np.stack(rows)), dim=1)
    return Faces(encoded, unit, names, fingerprint(seen))


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
        norm_num_groups=8,
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
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        cross_attention_dim=width,
        attention_head_dim=4,  # heads, in spite of its name in diffusers
        norm_num_groups=8,
    )
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


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


def fit(
    model: nn.Module,
    loss_of: Callable[[int, torch.Generator], torch.Tensor],
    steps: int,
    training: Training,
    checkpoint: Path,
    current: str,
) -> list[float]:
    """Train a model with AdamW and leave the moving average of its weights in it.

    Args:
        model: trained in place.
        loss_of: the loss of a step; all its randomness comes from the generator it is given, which is seeded by the
            step, so that a resumed run needs no random state.
        steps: in all.
        training: learning rate, moving average, checkpoints.
        checkpoint: where the state is kept.
        current: fingerprint of all that the training depends on.

    Returns:
        The loss of every step.

    Raises:
        StoreError: the checkpoint is of another training.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    average = [parameter.detach().clone() for parameter in parameters]
    losses: list[float] = []
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if state["fingerprint"] != current:
            raise StoreError(f"{checkpoint}: of other knobs or data; delete it, or choose another --out")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for kept, saved in zip(average, state["average"], strict=True):
            kept.copy_(saved)
        losses = state["losses"]
    model.train()
    with tqdm(desc=checkpoint.stem, total=steps, initial=len(losses), unit=" steps") as bar:
        for step in range(len(losses), steps):
            for group in optimizer.param_groups:
                group["lr"] = training.lr * schedule(step, steps, training.warmup)
            loss = loss_of(step, torch.Generator().manual_seed(seed_of(training.seed, checkpoint.stem, step)))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            decay = min(training.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [parameter.detach() for parameter in parameters], 1 - decay)
            losses.append(loss.item())
            bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
            bar.update()
            if len(losses) % training.checkpoint_every == 0 or len(losses) == steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
                with replacing(checkpoint) as path:
                    torch.save({**state, "losses": losses, "fingerprint": current}, path)
    with torch.no_grad():
        for parameter, kept in zip(parameters, average, strict=True):
            parameter.copy_(kept)
    model.eval()
    return losses


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: linear up over the first share of the steps, a cosine down to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def train(faces: Faces, training: Training, out: Path, device: str = "cpu") -> Arc2FacePipeline:
    """Train the VAE, then the UNet with the text encoder, and save the pipeline to `out/generator`.

    Args:
        faces: images and identity vectors.
        training: sizes and schedules.
        out: the folder of results and checkpoints.
        device: of torch.

    Returns:
        The pipeline, as it was saved but in fp32.
    """
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    later = ("unet_channels", "text_layers", "steps", "drop", "prediction")  # knobs that the VAE does not know
    of_vae = {name: value for name, value in asdict(training).items() if name not in later}
    mixed = {"device_type": torch.device(device).type, "dtype": torch.bfloat16, "enabled": training.bf16}
    count = len(faces.images)

    torch.manual_seed(seed_of(training.seed, "vae"))
    vae: Any = create_vae(training).to(device)

    def vae_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = batch_rows(count, max(1, training.batch_size // 4), step, training.seed, "vae")
        pixels = faces.pixels(rows, training.size).to(device)
        with torch.autocast(**mixed):
            posterior = vae.encode(pixels).latent_dist
            output = vae.decode(posterior.sample(generator)).sample
        return pyramid_l1(output.float(), pixels) + training.kl * posterior.kl().float().mean()

    vae_losses = fit(
        vae, vae_loss, training.vae_steps, training, out / "vae.pt", fingerprint(of_vae, faces.fingerprint)
    )
    latents = encode_all(vae, faces, training)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    latents *= vae.config.scaling_factor

    torch.manual_seed(seed_of(training.seed, "denoiser"))
    tokenizer = create_tokenizer()
    model = create_denoiser(training, tokenizer, faces.vectors.shape[1]).to(device)
    noising = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=training.prediction
    )
    prompt, empty = (
        torch.tensor(tokenizer(text, padding="max_length", max_length=LENGTH).input_ids, device=device)
        for text in (PROMPT, "")
    )
    placeholder = tokenizer.encode("id", add_special_tokens=False)[0]

    def denoiser_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = batch_rows(count, training.batch_size, step, training.seed, "denoiser")
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        time = torch.randint(noising.config.num_train_timesteps, (len(rows),), generator=generator)
        drop = torch.rand(len(rows), generator=generator) < training.drop
        goal = noise if training.prediction == "epsilon" else noising.get_velocity(clean, noise, time)
        noisy = noising.add_noise(clean, noise, time).to(device)
        tokens = torch.where(drop[:, None].to(device), empty, prompt)
        with torch.autocast(**mixed):
            states = text_states(model["text_encoder"], tokens, placeholder, faces.vectors[rows].to(device))
            output = model["unet"](noisy, time.to(device), encoder_hidden_states=states).sample
        return F.mse_loss(output.float(), goal.to(device))

    current = fingerprint(training, faces.fingerprint)
    losses = fit(model, denoiser_loss, training.steps, training, out / "denoiser.pt", current)

    scheduler = DPMSolverMultistepScheduler.from_config(noising.config)
    pipeline = Arc2FacePipeline(vae, model["text_encoder"], tokenizer, model["unet"], scheduler)
    pipeline.set_progress_bar_config(disable=True)
    save(pipeline, out / "generator")
    report = {
        "training": asdict(training),
        "images": count,
        "data": faces.fingerprint,
        "parameters": {
            name: sum(p.numel() for p in part.parameters())
            for name, part in pipeline.components.items()
            if isinstance(part, nn.Module)
        },
        "vae_loss": float(np.mean(vae_losses[-100:])),
        "loss": float(np.mean(losses[-100:])),
        "seconds": round(time.perf_counter() - began),
    }
    (out / "generator/training.json").write_text(json.dumps(report, indent=2) + "\n")
    return pipeline


@torch.no_grad()
def encode_all(vae: Any, faces: Faces, training: Training) -> torch.Tensor:
    """Latents of all images, the means of their posteriors: [n, c, h, w] float32 on the CPU."""
    means = []
    for rows in tqdm(np.array_split(np.arange(len(faces.images)), math.ceil(len(faces.images) / 64)), desc="latents"):
        means.append(vae.encode(faces.pixels(rows, training.size).to(vae.device)).latent_dist.mean.cpu())
    return torch.cat(means)


def save(pipeline: Arc2FacePipeline, folder: Path) -> None:
    """Save a diffusers folder in fp16, and leave the pipeline as it is."""
    halves = {
        name: copy.deepcopy(part).to(dtype=torch.float16) if isinstance(part, nn.Module) else part
        for name, part in pipeline.components.items()
    }
    Arc2FacePipeline(**halves).save_pretrained(folder)


def sheet(
    pipeline: Arc2FacePipeline, faces: Faces, training: Training, path: Path, rows: int = 8, columns: int = 5
) -> None:
    """One training image of each of `rows` people on the left, what is generated from its vector beside it."""
    people = np.linspace(0, len(faces.images) - 1, rows).astype(int)
    lines = []
    for row in people:
        real = ((faces.pixels(np.array([row]), training.size)[0].permute(1, 2, 0) + 1) * 127.5).round().byte()
        generators = [torch.Generator().manual_seed(number) for number in range(columns)]
        made = pipeline(faces.vectors[row].expand(columns, -1), generators)
        lines.append(np.concatenate([real.numpy(), *made.numpy()], axis=1))
    Image.fromarray(np.concatenate(lines)).save(path)


def main(
    images: Annotated[Path, typer.Option(help="Folder of image shards.")],
    embeddings: Annotated[Path, typer.Option(help="Folder of their embedding shards.")],
    out: Annotated[Path, typer.Option(help="Folder of results and checkpoints.")],
    size: int = Training.size,
    vae_steps: int = Training.vae_steps,
    steps: int = Training.steps,
    batch_size: int = Training.batch_size,
    lr: float = Training.lr,
    prediction: str = Training.prediction,
    bf16: bool = Training.bf16,
    seed: int = Training.seed,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int = 2,
) -> None:
    """Train the embedded world's generator; `Training` states the other sizes."""
    torch.set_num_threads(threads)
    faces = read_faces(images, embeddings)
    training = Training(
        size=size,
        vae_steps=vae_steps,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        prediction=prediction,
        bf16=bf16,
        seed=seed,
    )
    pipeline = train(faces, training, out, device)
    sheet(pipeline, faces, training, out / "samples.png")


if __name__ == "__main__":
    typer.run(main)
