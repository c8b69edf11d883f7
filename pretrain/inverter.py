"""Train the embedded world's StyleGAN2 and an encoder for it, from faces without a label.

    python inverter.py --images generator/data/align --out inverter/data

The generator grows (Karras et al., 2018): it learns to paint 32 px, and then, with two more layers, 64 px. Its encoder,
pSp's in small, learns to find what to paint. A killed run goes on from its last checkpoint, to the same bits. Under
`--out`: `inverter.pt` in pSp's layout and fp16, `training.json`, `samples.png`.

Notation: n images, s pixels of a side, L styles of d dimensions.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from stages.images import Faces, read_faces
from stages.pictures import save_png, sheet
from stages.store import fingerprint
from stages.training import Average, Loop, cosine, made_once, warmup
from stages.transfer.checkpoint import to_images
from stages.transfer.ffhq import cut
from stages.transfer.method import seed_of
from stages.transfer.stylegan.encoders import PSPEncoder
from stages.transfer.stylegan.files import Inverter
from stages.transfer.stylegan.inversion import encode
from stages.transfer.stylegan.networks import Discriminator, Generator
from stages.transfer.stylegan.perceptual import RandomFeatures
from stages.transfer.stylegan.projector import style_statistics
from stages.transfer.stylegan.training import discriminator_step, encoder_step, generator_step

STAGE = "pretrain"  # its folder in the cache
CODE = ("transfer/stylegan/encoders", "transfer/stylegan/networks", "transfer/stylegan/training")


@dataclass(frozen=True)
class Training:
    """Sizes and schedules."""

    sizes: tuple[int, ...] = (32, 64)  # px, in the order in which the generator grows
    steps: tuple[int, ...] = (3800, 3000)  # at each size
    channel_base: int = 1024
    channel_max: int = 128
    style: int = 96
    mlp: int = 4
    batch_size: int = 16
    lr: float = 0.002
    r1: float = 0.001  # times pixels / batch_size: five times what NVIDIA's code chooses by itself
    rise: int = 200  # steps, in which the generator's learning rate rises at each size, behind the discriminator's
    fall: float = 0.6  # share of the last size's steps, in which the rates fall to zero
    ema: float = 0.998
    depths: tuple[int, ...] = (1, 1, 2, 1)  # of the encoder
    widths: tuple[int, ...] = (16, 32, 64, 96)
    encoder_steps: int = 1700
    encoder_lr: float = 1e-3
    seed: int = 0


class MasterAdam:
    """Adam on float32 weights, for a copy of a network in bfloat16 that a step's gradients come from.

    Args:
        network: in float32.
        half: its copy.
    """

    def __init__(self, network: nn.Module, half: nn.Module) -> None:
        self.masters, self.weights = list(network.parameters()), list(half.parameters())
        self.adam = torch.optim.Adam(self.masters, betas=(0.0, 0.99), fused=True)
        self.param_groups = [{"params": self.weights}]
        self.load()

    def zero_grad(self) -> None:
        """See `torch.optim.Optimizer`."""
        for weight in self.weights:
            weight.grad = None

    def step(self) -> None:
        """See `torch.optim.Optimizer`."""
        for master, weight in zip(self.masters, self.weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
        self.adam.step()
        self.load()

    @torch.no_grad()
    def load(self) -> None:
        """Round the float32 weights."""
        for master, weight in zip(self.masters, self.weights, strict=True):
            weight.copy_(master)

    def rate(self, lr: float) -> None:
        """Set the learning rate."""
        for group in self.adam.param_groups:
            group["lr"] = lr


def read_pixels(faces: Faces, size: int) -> Tensor:
    """All images of a set, as they are cut where no points are known: [n, 3, size, size] uint8."""
    images = np.stack([cut(faces.image(row), None, size) for row in range(len(faces))])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def draw_photographs(pixels: Tensor, n: int, draw: torch.Generator) -> Tensor:
    """n of the images, one in two of them mirrored: [n, 3, s, s] float32 in [-1, 1]."""
    images = pixels[torch.randint(len(pixels), (n,), generator=draw)].float() / 127.5 - 1
    mirrored = torch.rand(n, 1, 1, 1, generator=draw) < 0.5
    return torch.where(mirrored, images.flip(3), images).contiguous(memory_format=torch.channels_last)


def fast(network: nn.Module) -> Any:
    """A copy in bfloat16, its channels last: on a CPU four times as fast."""
    half = copy.deepcopy(network).bfloat16()
    for weight in half.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return half


def start_from(network: nn.Module, smaller: dict[str, Tensor], shift: int = 0) -> None:
    """Take what a network of half the size has learned; `shift`: layers that the larger one has before it."""

    def moved(name: str) -> str:
        first, number, *rest = name.split(".")
        return ".".join([first, str(int(number) + shift), *rest]) if shift and first == "convs" else name

    known = {moved(name): value for name, value in smaller.items()}
    own = network.state_dict()
    network.load_state_dict({name: known.get(name, value) for name, value in own.items()})


def train_generator(pixels: Tensor, level: int, training: Training, key: str, before: Path | None) -> Path:
    """The game at one size: a file with the averaged `generator` and the `discriminator`.

    Args:
        pixels: of all images, at this size.
        level: the size's number.
        training: sizes and schedules.
        key: fingerprint of all that it depends on.
        before: the file of the size before.
    """
    size, steps, n = training.sizes[level], training.steps[level], training.batch_size
    torch.manual_seed(seed_of(training.seed, "generator", size))
    sizes = (training.channel_base, training.channel_max)
    generator, discriminator = Generator(size, training.style, training.mlp, *sizes), Discriminator(size, *sizes)
    if before:
        smaller = torch.load(before, weights_only=True)
        start_from(generator, smaller["generator"])
        start_from(discriminator, smaller["discriminator"], shift=1)
        nn.init.zeros_(generator.to_rgbs[-1].conv.weight)  # at first, what is painted is the smaller one's, enlarged
    painter, judge = fast(generator), fast(discriminator)
    falls = round(steps * training.fall) if level + 1 == len(training.sizes) else 0

    def learn(path: Path) -> dict[str, float]:
        optimisers = {"generator": MasterAdam(generator, painter), "discriminator": MasterAdam(discriminator, judge)}
        average = Average(generator, training.ema)
        parts = {"generator": generator, "discriminator": discriminator, "average": average}
        parts |= {f"{name}'s adam": optimiser.adam for name, optimiser in optimisers.items()}
        loop = Loop(STAGE, key, parts, steps, ("generator", "discriminator"), batch=n, title=f"{size} px")
        for optimiser in optimisers.values():
            optimiser.load()
        length = torch.zeros(())
        for step in loop:
            draw = torch.Generator().manual_seed(seed_of(training.seed, "generator", size, step))
            lr = training.lr * (cosine(step - steps + falls, falls) if step > steps - falls else 1)
            optimisers["discriminator"].rate(lr)
            optimisers["generator"].rate(lr * warmup(step, training.rise))
            photographs = draw_photographs(pixels, n, draw).bfloat16()
            r1 = training.r1 * size**2 / n
            losses = discriminator_step(
                painter, judge, optimisers["discriminator"], photographs, step, r1=r1, draw=draw
            )
            losses |= generator_step(painter, judge, optimisers["generator"], n, step, length, weight=0, draw=draw)
            average.update(generator, step)
            loop.record(generator=losses["generator"], discriminator=losses["discriminator"])
        average.copy_to(generator)
        torch.save({"generator": generator.state_dict(), "discriminator": discriminator.state_dict()}, path)
        return loop.means()

    return made_once(STAGE, key, f"{size}.pt", learn).path


def train_encoder(pixels: Tensor, generator: Generator, training: Training, key: str) -> tuple[Inverter, Any]:
    """The encoder, and the mean losses of its last 100 steps."""
    torch.manual_seed(seed_of(training.seed, "encoder"))
    generator.eval().requires_grad_(False)
    encoder = PSPEncoder(generator.styles, generator.size, training.depths, training.widths, training.style)
    mean, _ = style_statistics(generator)
    features, steps = RandomFeatures(), training.encoder_steps

    def perceptual(painted: Tensor, wanted: Tensor) -> Tensor:
        seen = [features((images + 1) * 127.5) for images in (painted, wanted)]
        return (seen[0] - seen[1]).square().sum(1).mean()

    def learn(path: Path) -> dict[str, float]:
        optimiser = torch.optim.Adam(encoder.parameters(), betas=(0.9, 0.99), fused=True)
        loop = Loop(
            STAGE,
            key,
            {"encoder": encoder, "optimiser": optimiser},
            steps,
            ("distance", "perceptual"),
            batch=training.batch_size,
            title="encoder",
        )
        encoder.train()
        for step in loop:
            draw = torch.Generator().manual_seed(seed_of(training.seed, "encoder", step))
            for group in optimiser.param_groups:
                group["lr"] = training.encoder_lr * warmup(step + 1, 100) * cosine(step, steps)
            photographs = draw_photographs(pixels, training.batch_size, draw)
            with torch.autocast("cpu", torch.bfloat16):
                losses = encoder_step(encoder, generator, mean, optimiser, photographs, perceptual)
            loop.record(distance=losses["distance"], perceptual=losses["perceptual"])
        torch.save(encoder.state_dict(), path)
        return loop.means()

    entry = made_once(STAGE, key, "encoder.pt", learn)
    encoder.load_state_dict(torch.load(entry.path, weights_only=True))
    return Inverter(generator, mean, encoder.eval()), entry.numbers


def train(faces: Faces, training: Training, out: Path) -> Inverter:
    """Train the generator and its encoder, and save them to `out/inverter.pt`.

    Args:
        faces: a set of images; whom they show is not used.
        training: sizes and schedules.
        out: the folder of results.

    Returns:
        Both, in fp32.
    """
    began = time.perf_counter()

    def key(*parts: str | int) -> str:
        return fingerprint(Path(__file__), training, faces.digest(), *parts, code=CODE)

    trained: Path | None = None
    for level, size in enumerate(training.sizes):
        pixels = read_pixels(faces, size)
        trained = train_generator(pixels, level, training, key("generator", size), trained)
    generator = Generator(training.sizes[-1], training.style, training.mlp, training.channel_base, training.channel_max)
    assert trained is not None
    generator.load_state_dict(torch.load(trained, weights_only=True)["generator"])
    inverter, losses = train_encoder(pixels, generator, training, key("encoder"))
    assert inverter.encoder is not None
    assert inverter.mean is not None
    state = {f"encoder.{name}": value for name, value in inverter.encoder.state_dict().items()}
    state |= {f"decoder.{name}": value for name, value in generator.state_dict().items()}
    content = {
        "state_dict": {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        "latent_avg": inverter.mean.expand(generator.styles, -1).half(),
        "opts": {"encoder_type": "GradualStyleEncoder", "start_from_latent_avg": True, "output_size": generator.size},
    }
    out.mkdir(parents=True, exist_ok=True)
    torch.save(content, out / "inverter.pt")
    report = {
        "training": asdict(training),
        "images": len(faces),
        "data": faces.digest(),
        "parameters": {
            "generator": sum(p.numel() for p in generator.parameters()),
            "encoder": sum(p.numel() for p in inverter.encoder.parameters()),
        },
        "losses": losses,
        "seconds": round(time.perf_counter() - began),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return inverter


@torch.no_grad()
def samples(inverter: Inverter, faces: Faces, columns: int = 8) -> np.ndarray:
    """A sheet: random styles, and below them images of the set and what the encoder's styles paint of each."""
    generator = inverter.generator
    drawn = torch.Generator().manual_seed(0)
    z = torch.randn(2 * columns, generator.dimension, generator=drawn)
    painted = to_images(generator(z), truncate=True)
    rows = np.linspace(0, len(faces) - 1, columns).astype(int)
    images = np.stack([cut(faces.image(row), None, generator.size) for row in rows.tolist()])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    again = to_images(generator.synthesis(encode(inverter, pixels)), truncate=True)
    return sheet(
        {"random": list(painted[:columns]), " ": list(painted[columns:]), "faces": list(images), "encoded": list(again)}
    )


def main(
    images: Annotated[Path, typer.Option(help="A set of aligned faces.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")],
    seed: int = Training.seed,
    threads: int = 2,
) -> None:
    """Train the embedded world's StyleGAN2 and its encoder; `Training` states the sizes."""
    torch.set_num_threads(threads)
    faces = read_faces(images)
    inverter = train(faces, Training(seed=seed), out)
    save_png(out / "samples.png", samples(inverter, faces))


if __name__ == "__main__":
    typer.run(main)
