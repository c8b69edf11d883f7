"""Train the embedded world's StyleGAN2 and an encoder for it, from faces without a label.

    python inverter.py --images generator/data/align --out inverter/data

Both learn at once, unlike the official ones: each step is one of StyleGAN2's game on random styles, and one in which
e4e's encoder and the generator paint an image again. Minutes are too short for the game alone, so that the generator
has learned as much from the second as from it: half an autoencoder. A killed run goes on from its last checkpoint, to
the same bits. Under `--out`: `inverter.pt` in e4e's layout and fp16, `training.json`, `samples.png`.

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
from stages.transfer.stylegan.encoders import E4EEncoder
from stages.transfer.stylegan.files import Inverter, load_inverter
from stages.transfer.stylegan.inversion import Inversion, apply
from stages.transfer.stylegan.networks import Discriminator, Generator
from stages.transfer.stylegan.perceptual import RandomFeatures
from stages.transfer.stylegan.projector import style_statistics
from stages.transfer.stylegan.training import discriminator_step, encoder_step, generator_step

STAGE = "pretrain"  # its folder in the cache
CODE = tuple(f"transfer/stylegan/{name}" for name in ("encoders", "networks", "perceptual", "training"))
LOSSES = ("generator", "discriminator", "distance", "perceptual", "delta")


@dataclass(frozen=True)
class Training:
    """Sizes and schedules."""

    size: int = 64  # px
    channel_base: int = 1024
    channel_max: int = 128
    style: int = 96
    mlp: int = 4
    depths: tuple[int, ...] = (1, 1, 2, 1)  # of the encoder
    widths: tuple[int, ...] = (16, 32, 64, 96)
    steps: int = 2400
    game_size: int = 8  # images of each kind in a step of the game; a multiple of 4
    game_every: int = 1  # steps
    batch_size: int = 16  # images that are painted again
    lr: float = 0.002  # of the game
    encoder_lr: float = 1e-3  # of the encoder, and of the generator when it paints again
    r1: float = 0.001  # times pixels / game_size: five times what NVIDIA's code chooses by itself
    delta: float = 2e-4  # e4e's
    rise: int = 100  # steps, in which the rates rise, but for the discriminator's
    fall: int = 600  # last steps, in which the rates fall to zero
    ema: float = 0.995
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
    """A copy in bfloat16, its channels last: on a CPU, twice as fast."""
    half = copy.deepcopy(network).bfloat16()
    for weight in half.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return half


def create(training: Training) -> tuple[Generator, Discriminator, E4EEncoder]:
    """The networks, as they are before the training."""
    torch.manual_seed(seed_of(training.seed, "networks"))
    channels = (training.channel_base, training.channel_max)
    generator = Generator(training.size, training.style, training.mlp, *channels)
    encoder = E4EEncoder(generator.styles, training.size, training.depths, training.widths, training.style)
    return generator, Discriminator(training.size, *channels), encoder


def learn(pixels: Tensor, training: Training, key: str, start: Path | None = None) -> tuple[Inverter, dict[str, float]]:
    """Train generator, discriminator and encoder; averages of the first and the last, and the last steps' mean losses.

    Args:
        pixels: [n, 3, s, s] uint8.
        training: sizes and schedules.
        key: fingerprint of all that it depends on.
        start: an `inverter.pt` to begin with, whose discriminator is begun anew.
    """
    generator, discriminator, encoder = create(training)
    if start:
        begun = load_inverter(start)
        generator.load_state_dict(begun.generator.state_dict())
        encoder.load_state_dict(begun.encoder.state_dict())
    kept = nn.ModuleDict({"generator": generator, "encoder": encoder})
    painter, judge, features = fast(generator), fast(discriminator), RandomFeatures()

    def perceptual(painted: Tensor, wanted: Tensor) -> Tensor:
        seen = [features((images + 1) * 127.5) for images in (painted, wanted)]
        return (seen[0] - seen[1]).square().sum(1).mean()

    def write(path: Path) -> dict[str, float]:
        painting, judging = MasterAdam(generator, painter), MasterAdam(discriminator, judge)
        again = torch.optim.Adam(kept.parameters(), betas=(0.9, 0.99), fused=True)
        average = Average(kept, training.ema)
        adams = {"painting": painting.adam, "judging": judging.adam, "again": again}
        parts = {"kept": kept, "discriminator": discriminator, "average": average, **adams}
        loop = Loop(STAGE, key, parts, training.steps, LOSSES, batch=training.batch_size, title="inverter")
        judging.load()
        kept.train()
        nothing, length = torch.zeros(training.style), torch.zeros(())
        for step in loop:
            draw = torch.Generator().manual_seed(seed_of(training.seed, "step", step))
            left = training.steps - step
            factor = cosine(training.fall - left, training.fall) if left < training.fall else 1.0
            rise = warmup(step + 1, training.rise)
            for adam, lr in (
                (judging.adam, training.lr),
                (painting.adam, training.lr * rise),
                (again, training.encoder_lr * rise),
            ):
                for group in adam.param_groups:
                    group["lr"] = lr * factor
            painting.load()
            if step % training.game_every == 0:
                n, game = training.game_size, step // training.game_every
                photographs, r1 = draw_photographs(pixels, n, draw).bfloat16(), training.r1 * training.size**2 / n
                losses = discriminator_step(painter, judge, judging, photographs, game, r1, draw)
                losses |= generator_step(painter, judge, painting, n, game, length, weight=0, draw=draw)
            photographs = draw_photographs(pixels, training.batch_size, draw)
            with torch.autocast("cpu", torch.bfloat16):
                losses |= encoder_step(encoder, generator, nothing, again, photographs, perceptual, training.delta)
            average.update(kept, step)
            loop.record(**{name: losses[name] for name in LOSSES})
        average.copy_to(kept)
        torch.save(kept.state_dict(), path)
        return loop.means()

    entry = made_once(STAGE, key, "inverter.pt", write)
    kept.load_state_dict(torch.load(entry.path, weights_only=True))
    kept.eval()
    return Inverter(generator, None, encoder, from_mean=False), entry.numbers


def save(inverter: Inverter, path: Path) -> None:
    """In e4e's layout and fp16; its encoder's styles are not relative to the mean, which stands there nevertheless."""
    assert inverter.encoder is not None
    state = {f"encoder.{name}": value for name, value in inverter.encoder.state_dict().items()}
    state |= {f"decoder.{name}": value for name, value in inverter.generator.state_dict().items()}
    mean, _ = style_statistics(inverter.generator)
    content = {
        "state_dict": {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        "latent_avg": mean.expand(inverter.generator.styles, -1).half(),
        "opts": {"encoder_type": "Encoder4Editing", "start_from_latent_avg": False},
    }
    torch.save(content, path)


def train(faces: Faces, training: Training, out: Path, start: Path | None = None) -> Inverter:
    """Train the generator and its encoder, and save them to `out/inverter.pt`.

    Args:
        faces: a set of images; whom they show is not used.
        training: sizes and schedules.
        out: the folder of results.
        start: an `inverter.pt` to begin with.

    Returns:
        Both, as they were saved.
    """
    began = time.perf_counter()
    begun = [start] if start else []
    key = fingerprint(Path(__file__), training, faces.digest(), *begun, code=CODE)
    inverter, losses = learn(read_pixels(faces, training.size), training, key, start)
    out.mkdir(parents=True, exist_ok=True)
    save(inverter, out / "inverter.pt")
    report = {
        "training": asdict(training),
        "images": len(faces),
        "data": faces.digest(),
        "parameters": {
            name: sum(weight.numel() for weight in getattr(inverter, name).parameters())
            for name in ("generator", "encoder")
        },
        "losses": losses,
        "seconds": round(time.perf_counter() - began),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return load_inverter(out / "inverter.pt")


@torch.no_grad()
def samples(inverter: Inverter, faces: Faces, columns: int = 8) -> np.ndarray:
    """A sheet: what random styles paint, and below it images of the set and how the encoder's styles paint them."""
    generator = inverter.generator
    z = torch.randn(2 * columns, generator.dimension, generator=torch.Generator().manual_seed(0))
    painted = to_images(generator(z), truncate=True)
    rows = np.linspace(0, len(faces) - 1, columns).astype(int).tolist()
    images = np.stack([cut(faces.image(row), None, generator.size) for row in rows])
    return sheet(
        {
            "random": list(painted[:columns]),
            " ": list(painted[columns:]),
            "faces": list(images),
            "painted again": list(apply(inverter, images, Inversion("e4e"))),
        }
    )


def main(
    images: Annotated[Path, typer.Option(help="A set of aligned faces.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")],
    seed: int = Training.seed,
    start: Annotated[Path | None, typer.Option(help="An inverter.pt to go on from.")] = None,
    steps: int = Training.steps,
    game_every: Annotated[int, typer.Option(help="Steps in which it paints again, to one of the game.")] = 1,
    threads: int = 2,
) -> None:
    """Train the embedded world's StyleGAN2 and its encoder; `Training` states the sizes."""
    torch.set_num_threads(threads)
    faces = read_faces(images)
    inverter = train(faces, Training(seed=seed, steps=steps, game_every=game_every), out, start)
    save_png(out / "samples.png", samples(inverter, faces))


if __name__ == "__main__":
    typer.run(main)
