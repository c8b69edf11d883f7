"""Train the embedded world's CodeFormer: the official classes with a few million weights, in the three official stages.

    python codeformer.py --images generator/data/align --out codeformer/data

The autoencoder with its codebook on faces in the camera look; the transformer that reads codes off degraded faces; the
fusion of the input's detail. No stage sees whom a face shows, and nothing has seen a photograph: `RandomFeatures`
stands in for LPIPS. A killed run goes on from its last checkpoint, to the same bits. Under `--out`: `codeformer.pth`
(fp16) with `training.json`, and `samples.png`.

Notation: n images, s pixels of a side.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from stages.images import Faces, read_faces
from stages.pictures import save_png, sheet
from stages.store import fingerprint
from stages.training import Average, Loop, cosine, made_once, warmup
from stages.training.tensors import read_tensors
from stages.transfer.codeformer import CodeFormer, Restoration, apply
from stages.transfer.codeformer.networks import VQGAN, Discriminator, save_codeformer
from stages.transfer.codeformer.training import code_step, fusion_step, vqgan_step
from stages.transfer.method import seed_of
from stages.transfer.vsait.features import RandomFilters

STAGE = "pretrain"  # its folder in the cache
CODE = ("transfer/codeformer/networks", "transfer/codeformer/training", "transfer/vsait/features")
STRONG = {"sigma": (1, 15), "factor": (4, 30), "noise": (0, 20), "jpeg": (30, 80)}  # officially, of 512 px
MILD = {"sigma": (0.1, 10), "factor": (1, 12), "noise": (0, 15), "jpeg": (60, 100)}


@dataclass(frozen=True)
class Training:
    """Sizes and schedules."""

    size: int = 112  # px; latents are an eighth of it
    width: int = 32
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    codes: int = 1024
    code: int = 64  # dimensions of a code
    groups: int = 2  # of the group norms; of few channels each, they would take an image's colour away
    width_transformer: int = 256
    heads: int = 8
    layers: int = 3
    connect: tuple[int, ...] = (28, 56)  # px, of the maps that are fused: all between the latents and the image
    discriminator: int = 32  # channels of its first convolution
    batch_size: int = 8  # whole images; half as many in the fusion's steps, which cost twice as much
    crop: int = 48  # px, of the autoencoder's first steps, twice as many in a batch: more faces in the same time
    crop_steps: int = 2400
    plain_steps: int = 800  # of those, before there is a codebook: poor latents would be quantised as they are
    whole_steps: int = 200
    gan_start: int = 1700  # the step of the autoencoder's at which the discriminator joins; halfway in the fusion's
    code_steps: int = 1200
    fusion_steps: int = 800
    revive: int = 200  # steps between two looks for codes that nothing is near to; none in the last third
    lr: float = 1e-3  # the highest, of the autoencoder; half of it for the others; a cosine to zero
    zoom: float = 0.6  # the smallest scale at which a face is shown: rendered faces are not aligned
    ema: float = 0.998
    bf16: bool = True
    seed: int = 0

    @property
    def vqgan(self) -> dict[str, Any]:
        """Arguments of `VQGAN`."""
        names = ("size", "width", "multipliers", "codes", "code", "groups")
        return {name: getattr(self, name) for name in names} | {"depth": 1, "attention": ()}

    @property
    def codeformer(self) -> dict[str, Any]:
        """Arguments of `CodeFormer`."""
        return {name: getattr(self, name) for name in ("width_transformer", "heads", "layers", "connect")} | self.vqgan


class RandomFeatures(nn.Module):
    """A perceptual distance that has seen no photograph: mean difference of random filters' maps, three levels."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = RandomFilters((16, 32, 64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Images [n, 3, h, w], twice -> distance ()."""
        maps = zip(self.filters(x), self.filters(y.detach()), strict=True)
        return torch.stack([F.l1_loss(a, b) for a, b in maps]).mean()


def view(image: np.ndarray, size: int, zoom: float, rng: np.random.Generator) -> np.ndarray:
    """The face at a random scale and place, mirrored or not, on `size` px: [h, w, 3] uint8 -> [size, size, 3].

    Half of the images are as they come. What lies outside of the image is its reflection.
    """
    scale = size / image.shape[0] * (rng.uniform(zoom, 1) if rng.random() < 0.5 else 1)
    x, y = rng.uniform(0, size - scale * image.shape[0], 2)
    matrix = np.array([[scale, 0, x], [0, scale, y]])
    image = image[:, ::-1] if rng.random() < 0.5 else image
    if scale < 0.8:  # the pixels that a smaller one covers, not every other of them
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def degrade(image: np.ndarray, kind: dict[str, tuple[float, float]], rng: np.random.Generator) -> np.ndarray:
    """Blur, shrink, noise, JPEG, and back to its size (`basicsr/data/ffhq_blind_dataset.py`): [s, s, 3] uint8, twice.

    Args:
        kind: ranges of the official 512 px: the blur's deviation and the factor are scaled to s.
        rng: of all that is drawn.
    """
    size = len(image)
    share = size / 512
    sigmas = rng.uniform(*kind["sigma"], 2) * share
    if rng.random() < 0.5:
        sigmas[1] = sigmas[0]
    image = cv2.filter2D(image, -1, blur(*sigmas, rng.uniform(-np.pi, np.pi)), borderType=cv2.BORDER_REFLECT_101)
    small = max(4, round(size / max(1, rng.uniform(*kind["factor"]) * share)))
    pixels = cv2.resize(image, (small, small), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    pixels += rng.normal(0, rng.uniform(*kind["noise"]), pixels.shape)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(*kind["jpeg"]))]
    encoded = cv2.imencode(".jpg", pixels.round().clip(0, 255).astype(np.uint8), quality)[1]
    return cv2.resize(cv2.imdecode(encoded, cv2.IMREAD_COLOR), (size, size), interpolation=cv2.INTER_LINEAR)


def blur(along: float, across: float, angle: float) -> np.ndarray:
    """A Gaussian kernel with these deviations, px, turned by an angle: [k, k], sum 1."""
    radius = int(np.ceil(3 * max(along, across)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    kernel = np.exp(-(u**2 / (2 * along**2 + 1e-8) + v**2 / (2 * across**2 + 1e-8)))
    return kernel / kernel.sum()


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """n of [h, w, 3] uint8 -> [n, 3, h, w] float32 in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def clean_faces(faces: Faces, training: Training, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """A batch of whole images, drawn and shown at random."""
    rows = rng.choice(len(faces), count, replace=len(faces) < count)
    return [view(faces.image(row), training.size, training.zoom, rng) for row in rows.tolist()]


def batch_of(faces: Faces, training: Training, step: int) -> Tensor:
    """The autoencoder's: crops, or whole images in its last steps."""
    rng = np.random.default_rng(seed_of(training.seed, "vqgan", step))
    if step >= training.crop_steps:
        return to_tensor(clean_faces(faces, training, rng, training.batch_size))
    crops, side = [], training.crop
    for image in clean_faces(faces, training, rng, 2 * training.batch_size):
        y, x = rng.integers(0, training.size - side + 1, 2)
        crops.append(image[y : y + side, x : x + side])
    return to_tensor(crops)


def pairs_of(faces: Faces, training: Training, name: str, step: int, count: int, strong: bool) -> tuple[Tensor, Tensor]:
    """Whole images, and the same degraded."""
    rng = np.random.default_rng(seed_of(training.seed, name, step))
    clean = clean_faces(faces, training, rng, count)
    return to_tensor(clean), to_tensor([degrade(image, STRONG if strong else MILD, rng) for image in clean])


@torch.no_grad()
def set_codes(network: VQGAN, faces: Faces, training: Training, step: int, all_of_them: bool) -> None:
    """Move the codes, or those that nothing is near to, to places of the encoder's latents.

    Codes drawn at random mostly die in a short training: no latent is ever nearest to them.
    """
    rng = np.random.default_rng(seed_of(training.seed, "codes", step))
    images = to_tensor(clean_faces(faces, training, rng, 8 * training.batch_size))
    latents = torch.cat([network.encoder(part) for part in images.split(8)])
    rows = latents.flatten(2).transpose(1, 2).flatten(0, 1).float()
    book = network.quantize.embedding.weight
    used = torch.bincount(network.quantize.nearest(latents).flatten(), minlength=len(book)) > 0
    dead = torch.ones_like(used) if all_of_them else ~used
    picks = torch.from_numpy(rng.choice(len(rows), int(dead.sum()), replace=len(rows) < len(book)))
    book[dead] = rows[picks]
    if all_of_them:  # some rounds of k-means
        for _ in range(5):
            numbers = network.quantize.nearest(latents).flatten()
            sums = torch.zeros_like(book).index_add_(0, numbers, rows)
            count = torch.bincount(numbers, minlength=len(book))[:, None]
            book.copy_(torch.where(count > 0, sums / count.clamp(min=1), book))


def optimiser(parameters: list[nn.Parameter], lr: float) -> Adam:
    """The official Adam; gradients are clipped to norm 1, as the learning rate is high."""
    adam = Adam(parameters, lr=lr, betas=(0.9, 0.99), fused=True)
    adam.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(parameters, 1.0) and None)
    return adam


def fit(
    name: str,
    network: nn.Module,
    parts: dict[str, Any],
    step_of: Callable[[int], dict[str, float]],
    steps: int,
    names: tuple[str, str],
    lr: float,
    training: Training,
    key: str,
) -> dict[str, float]:
    """Train in place, and leave the moving average of the weights in the network; what was trained before is loaded.

    Args:
        name: of the stage of training.
        network: whose average is kept.
        parts: what a step changes beside it; the learning rate of those that are optimisers is set.
        step_of: takes a step, which depends on its number and the weights only, and gives the losses.
        steps: in all.
        names: of the losses that are recorded.
        lr: the highest learning rate.
        training: its moving average.
        key: fingerprint of all that the training depends on.

    Returns:
        Means of the losses over the last 100 steps.
    """

    def learn(path: Path) -> dict[str, float]:
        average = Average(network, training.ema)
        loop = Loop(STAGE, key, {"network": network, "average": average, **parts}, steps, names, title=name)
        network.train()
        for step in loop:
            for part in parts.values():
                for group in part.param_groups if isinstance(part, Adam) else ():
                    group["lr"] = lr * warmup(step + 1, 100) * cosine(step, steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=training.bf16):
                losses = step_of(step)
            average.update(network, step)
            loop.record(**{name: losses[name] for name in names})
        average.copy_to(network)
        torch.save({"params_ema": network.state_dict()}, path)
        return loop.means()

    entry = made_once(STAGE, key, f"{name}.pth", learn)
    network.load_state_dict(read_tensors(entry.path)["params_ema"])
    network.eval()
    return entry.numbers


def train_vqgan(faces: Faces, training: Training) -> tuple[VQGAN, dict[str, float]]:
    """Stage 1, and its losses."""
    torch.manual_seed(seed_of(training.seed, "vqgan"))
    network, distance = VQGAN(**training.vqgan), RandomFeatures()
    discriminator = Discriminator(training.discriminator, 2)
    steps = training.crop_steps + training.whole_steps
    optimisers = [optimiser(list(part.parameters()), training.lr) for part in (network, discriminator)]

    def step_of(step: int) -> dict[str, float]:
        clean = batch_of(faces, training, step)
        if step < training.plain_steps:
            output = network.generator(network.encoder(clean))
            loss = F.l1_loss(output, clean) + distance(output, clean)
            optimisers[0].zero_grad()
            loss.backward()
            optimisers[0].step()
            return {"reconstruction": float(loss.detach()), "codebook": 0.0}
        if step == training.plain_steps or (step % training.revive == 0 and 3 * step < 2 * steps):
            set_codes(network, faces, training, step, step == training.plain_steps)
        joined = discriminator if step >= training.gan_start else None
        return vqgan_step(network, joined, (optimisers[0], optimisers[1]), clean, distance)

    parts = {"adam": optimisers[0], "discriminator": discriminator, "discriminator_adam": optimisers[1]}
    own = replace(training, code_steps=0, fusion_steps=0)
    key = fingerprint(Path(__file__), own, faces.digest(), "vqgan", code=CODE)
    names = ("reconstruction", "codebook")
    return network, fit("vqgan", network, parts, step_of, steps, names, training.lr, training, key)


def train_codeformer(faces: Faces, training: Training, vqgan: VQGAN) -> tuple[CodeFormer, dict[str, float]]:
    """Stages 2 and 3, and their losses."""
    torch.manual_seed(seed_of(training.seed, "codeformer"))
    network, distance = CodeFormer(**training.codeformer), RandomFeatures()
    network.load_state_dict(vqgan.state_dict(), strict=False)
    vqgan.requires_grad_(False)
    fuses = list(network.fuse_convs_dict.parameters())
    learned = [p for p in network.parameters() if p.requires_grad]
    reader = optimiser([p for p in learned if all(p is not other for other in fuses)], training.lr / 2)

    def code(step: int) -> dict[str, float]:
        return code_step(network, vqgan, reader, *pairs_of(faces, training, "codes", step, training.batch_size, True))

    names, lr = ("codes", "latents"), training.lr / 2
    own = replace(training, fusion_steps=0)
    key = fingerprint(Path(__file__), own, faces.digest(), "codes", code=CODE)
    numbers = fit("codes", network, {"adam": reader}, code, training.code_steps, names, lr, training, key)

    discriminator = Discriminator(training.discriminator, 2)
    both = (optimiser(learned, lr), optimiser(list(discriminator.parameters()), lr))

    def fusion(step: int) -> dict[str, float]:
        mild = step % 4 > 0  # so that it does not forget how to read a bad image's codes
        w = 1.0 if 2 * step < training.fusion_steps else 1.3
        joined = discriminator if 2 * step >= training.fusion_steps else None
        pairs = pairs_of(faces, training, "fusion", step, training.batch_size // 2, not mild)
        return fusion_step(network, vqgan, joined, both, *pairs, distance, w, mild)

    parts = {"adam": both[0], "discriminator": discriminator, "discriminator_adam": both[1]}
    key = fingerprint(Path(__file__), training, faces.digest(), "fusion", code=CODE)
    fused = fit("fusion", network, parts, fusion, training.fusion_steps, names, lr, training, key)
    return network, numbers | {f"fusion_{name}": value for name, value in fused.items()}


def train(faces: Faces, training: Training, out: Path) -> CodeFormer:
    """Train all three stages, and save `out/codeformer.pth` in the official layout, in fp16.

    Returns:
        The network, in fp32.
    """
    began = time.perf_counter()
    vqgan, losses = train_vqgan(faces, training)
    network, further = train_codeformer(faces, training, vqgan)
    out.mkdir(parents=True, exist_ok=True)
    save_codeformer(out / "codeformer.pth", network, **training.codeformer)
    report = {
        "training": asdict(training),
        "images": len(faces),
        "data": faces.digest(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "losses": losses | further,
        "seconds": round(time.perf_counter() - began),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return network


def samples(network: CodeFormer, faces: Faces, count: int = 8) -> np.ndarray:
    """A sheet: training images, the codec alone, strongly degraded ones, and these restored at rising w."""
    size = network.size
    rows = np.linspace(0, len(faces) - 1, count).astype(int).tolist()
    images = np.stack([cv2.resize(faces.image(row), (size, size)) for row in rows])
    poor = np.stack(
        [degrade(image, STRONG, np.random.default_rng(row)) for image, row in zip(images, rows, strict=True)]
    )
    lines = {"image": list(images), "degraded": list(poor)}
    for w in (0.0, 0.5, 1.0):
        lines[f"restored, w {w}"] = list(apply(network, poor, Restoration(w=w)))
        lines[f"from the image, w {w}"] = list(apply(network, images, Restoration(w=w)))
    return sheet(lines)


def main(
    images: Annotated[Path, typer.Option(help="A set of aligned faces in the camera look.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")],
    code_steps: int = Training.code_steps,
    fusion_steps: int = Training.fusion_steps,
    seed: int = Training.seed,
    threads: int = 1,
) -> None:
    """Train the embedded world's CodeFormer; `Training` states the sizes."""
    torch.set_num_threads(threads)
    faces = read_faces(images)
    network = train(faces, Training(code_steps=code_steps, fusion_steps=fusion_steps, seed=seed), out)
    save_png(out / "samples.png", samples(network, faces))


if __name__ == "__main__":
    typer.run(main)
