"""Train the embedded world's generator: Arc2Face's classes with a few million weights.

    python generator.py --images generator/data/align --encoder ../stages/embed/encoder.onnx --out generator/data

First the VAE, then the UNet and the text encoder on its latents, from shards of aligned images (identity, sample) and
what the encoder makes of them. A killed run goes on from its last checkpoint, to the same bits. Under `--out`:
`generator/`, a diffusers folder in fp16 with `training.json` beside its parts; `samples.png`; the embeddings and the
checkpoints.

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
from safetensors.torch import load_model
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stages.embed.encoder import Encoder
from stages.store import Shard, StoreError, decode, fingerprint, is_current, replacing, write_shard
from stages.transfer.arc2face.pipeline import PLACEHOLDER, PROMPT, Arc2FacePipeline, text_states
from stages.transfer.arc2face.sampling import seed_of

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
    checkpoint_every: int = 500  # steps
    seed: int = 0


@dataclass(frozen=True)
class Faces:
    """n images, encoded, and their identity vectors."""

    images: list[bytes]
    vectors: torch.Tensor  # [n, d] float32, unit norm
    prototypes: torch.Tensor  # [n, d] float32, unit norm: the mean of the vectors of an image's person
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


def read_faces(folder: Path, encoder: Path, cache: Path) -> Faces:
    """Read shards of aligned images, and embed what is not embedded yet.

    Args:
        folder: of the shards.
        encoder: an ONNX file of the identity encoder.
        cache: folder of the embeddings, one shard for one of images.

    Raises:
        StoreError: no shards, or no encoder.
    """
    paths = sorted(folder.glob("*.h5"))
    if not paths:
        raise StoreError(f"{folder}: no image shards")
    network, encoder_stamp = Encoder(encoder), fingerprint(encoder)
    images: list[bytes] = []
    names, people, vectors, stamps = [], [], [], []
    for path in tqdm(paths, desc="embed", unit=" shards"):
        with Shard(path) as shard:
            encoded = [shard.encoded(row) for row in range(len(shard))]
            people.append(shard["identity"])
            stamps.append(fingerprint(shard.fingerprint, encoder_stamp))
        name = [f"{path}, row {row}" for row in range(len(encoded))]
        if not is_current(cache / path.name, stamps[-1]):
            pixels = np.stack([decode(image, its_name) for image, its_name in zip(encoded, name, strict=True)])
            write_shard(cache / path.name, {"embedding": network.embed(pixels)}, fingerprint=stamps[-1])
        with Shard(cache / path.name) as shard:
            vectors.append(shard["embedding"])
        images += encoded
        names += name
    unit = F.normalize(torch.from_numpy(np.concatenate(vectors)), dim=1)
    _, person = np.unique(np.concatenate(people), return_inverse=True)
    index = torch.from_numpy(person)
    sums = torch.zeros(int(index.max()) + 1, unit.shape[1]).index_add_(0, index, unit)
    return Faces(images, unit, F.normalize(sums, dim=1)[index], names, fingerprint(stamps))


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
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
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


def fit(
    model: nn.Module,
    loss_of: Callable[[int, torch.Generator], torch.Tensor],
    steps: int,
    lr: float,
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
        lr: the highest learning rate.
        training: its schedule, moving average, checkpoints.
        checkpoint: where the state is kept.
        current: fingerprint of all that the training depends on.

    Returns:
        The loss of every step.

    Raises:
        StoreError: the checkpoint is of another training.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
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
                group["lr"] = lr * schedule(step, steps, training.warmup)
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


def train(
    faces: Faces, training: Training, out: Path, start: Path | None = None, device: str = "cpu"
) -> Arc2FacePipeline:
    """Train the VAE, then the UNet with the text encoder, and save the pipeline to `out/generator`.

    Args:
        faces: images and identity vectors.
        training: sizes and schedules; with no steps of its own the VAE stays as it is.
        out: the folder of results and checkpoints.
        start: a generator's folder whose weights, and their sizes, the training starts from; random weights without.
        device: of torch.

    Returns:
        The pipeline, as it was saved but in fp32.
    """
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    of_vae = {name: value for name, value in asdict(training).items() if name.startswith("vae") or name in VAE_KNOBS}
    mixed = {"device_type": torch.device(device).type, "dtype": torch.bfloat16, "enabled": training.bf16}
    count = len(faces.images)
    origin = [fingerprint(path) for path in sorted(start.rglob("*.safetensors"))] if start else []

    torch.manual_seed(seed_of(training.seed, "vae"))
    vae: Any = load_part(AutoencoderKL, start / "vae") if start else create_vae(training)
    vae.to(device)

    def vae_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = batch_rows(count, training.vae_batch_size, step, training.seed, "vae")
        pixels = faces.pixels(rows, training.size)
        if step < training.vae_steps - training.vae_whole:
            pixels = crop(pixels, training.vae_crop, generator)
        pixels = pixels.to(device)
        with torch.autocast(**mixed):
            posterior = vae.encode(pixels).latent_dist
            output = vae.decode(posterior.sample(generator)).sample
        return pyramid_l1(output.float(), pixels) + training.kl * posterior.kl().float().mean()

    current = fingerprint(of_vae, faces.fingerprint, origin)
    vae_losses = fit(vae, vae_loss, training.vae_steps, training.vae_lr, training, out / "vae.pt", current)
    latents = encode_all(vae, faces, training)
    mean, std = latents.mean().item(), latents.std().item()
    vae.register_to_config(scaling_factor=1 / std, shift_factor=mean)
    latents = (latents - mean) / std

    torch.manual_seed(seed_of(training.seed, "denoiser"))
    tokenizer = create_tokenizer()
    model = load_denoiser(start) if start else create_denoiser(training, tokenizer, faces.vectors.shape[1])
    model.to(device)
    noising = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=training.prediction
    )
    ratio = noising.alphas_cumprod / (1 - noising.alphas_cumprod)  # the signal-to-noise ratio of a step
    weight = ratio.clamp(max=training.snr) / (ratio if training.prediction == "epsilon" else ratio + 1)
    prompt, empty = (
        torch.tensor(tokenizer(text, padding="max_length", max_length=LENGTH).input_ids, device=device)
        for text in (PROMPT, "")
    )
    placeholder = tokenizer.encode(PLACEHOLDER, add_special_tokens=False)[0]

    def denoiser_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = batch_rows(count, training.batch_size, step, training.seed, "denoiser")
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        time = torch.randint(noising.config.num_train_timesteps, (len(rows),), generator=generator)
        drop = torch.rand(len(rows), generator=generator) < training.drop
        # between the person and the image, as the sampling will ask
        way = torch.rand(len(rows), 1, generator=generator)
        vectors = F.normalize(torch.lerp(faces.prototypes[rows], faces.vectors[rows], way), dim=1)
        goal = noise if training.prediction == "epsilon" else noising.get_velocity(clean, noise, time)
        noisy = noising.add_noise(clean, noise, time).to(device)
        tokens = torch.where(drop[:, None].to(device), empty, prompt)
        with torch.autocast(**mixed):
            states = text_states(model["text_encoder"], tokens, placeholder, vectors.to(device))
            output = model["unet"](noisy, time.to(device), encoder_hidden_states=states).sample
        error = (output.float() - goal.to(device)).square().mean(dim=(1, 2, 3))
        return (weight[time].to(device) * error).mean()

    current = fingerprint(training, faces.fingerprint, origin)
    losses = fit(model, denoiser_loss, training.steps, training.lr, training, out / "denoiser.pt", current)

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
        "start": origin,
        "vae_loss": float(np.mean(vae_losses[-100:])) if vae_losses else None,
        "loss": float(np.mean(losses[-100:])),
        "seconds": round(time.perf_counter() - began),
    }
    (out / "generator/training.json").write_text(json.dumps(report, indent=2) + "\n")
    return pipeline


def crop(pixels: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """A square of `size` px from a random place of each image [n, c, h, w]: [n, c, size, size]."""
    places = torch.stack(
        [torch.randint(side - size + 1, (len(pixels),), generator=generator) for side in pixels.shape[2:]], dim=1
    )
    return torch.stack(
        [image[:, y : y + size, x : x + size] for image, (y, x) in zip(pixels, places.tolist(), strict=True)]
    )


@torch.no_grad()
def encode_all(vae: Any, faces: Faces, training: Training) -> torch.Tensor:
    """Latents of all images, the means of their posteriors: [n, c, h, w] float32 on the CPU."""
    means = []
    for rows in tqdm(np.array_split(np.arange(len(faces.images)), math.ceil(len(faces.images) / 64)), desc="latents"):
        pixels = faces.pixels(rows, training.size).to(vae.device)
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=training.bf16):
            means.append(vae.encode(pixels).latent_dist.mean.float().cpu())
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
        made = pipeline(faces.prototypes[row].expand(columns, -1), generators)
        lines.append(np.concatenate([real.numpy(), *made.numpy()], axis=1))
    Image.fromarray(np.concatenate(lines)).save(path)


def main(
    images: Annotated[Path, typer.Option(help="Folder of shards of aligned images.")],
    encoder: Annotated[Path, typer.Option(help="ONNX file of the identity encoder.")],
    out: Annotated[Path, typer.Option(help="Folder of results and checkpoints.")],
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
    faces = read_faces(images, encoder, out / "embed")
    training = Training(vae_steps=vae_steps, steps=steps, lr=lr, seed=seed)
    pipeline = train(faces, training, out, start, device)
    sheet(pipeline, faces, training, out / "samples.png")


if __name__ == "__main__":
    typer.run(main)
