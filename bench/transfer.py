"""What an image costs by each transfer method at its official size, and what a training step costs; Syn2Auth's table 1.

    python -m bench.transfer                      all methods, an image
    python -m bench.transfer --train              the methods that learn, a step
    python -m bench.transfer vsait --device cuda --batch 16

Networks with random weights, of the official sizes: time does not depend on what they have learned. `to_codeformer` is
a time over CodeFormer's of the same run, `published_to_codeformer` the same of Syn2Auth's table 1 (RTX 3090 Ti);
`of_matmul` is the share of a large matrix product's rate. Of a training step, `to_plain` is the rate over that of the
official order written down as it comes (`tests/transfer/*/plain.py`, which computes more things twice), and
`batched` the images/s at `--batch` over those at 1. One JSON line.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
import typer
from diffusers.models import UNet2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.arc2face import peak, timed
from stages.transfer import knobs_of
from stages.transfer.codeformer.networks import CodeFormer
from stages.transfer.cut import ResnetGenerator
from stages.transfer.stylegan.encoders import E4EEncoder
from stages.transfer.stylegan.networks import Generator as Painter
from stages.transfer.unsb.networks import Generator as UNSBGenerator
from stages.transfer.vsait import Generator
from tests.transfer.decent.plain import plain as plain_decent
from tests.transfer.unsb.plain import plain as plain_unsb
from tests.transfer.vsait.plain import plain as plain_vsait

# seconds an image, Syn2Auth's table 1; it has no StyleGAN inversion, and does not say with how many steps DDIM inverted
PUBLISHED = {"codeformer": 0.41, "vsait": 0.015, "decent": 0.13, "unsb": 0.38, "ddim": 8.7}
CELEBAHQ = {  # google/ddpm-ema-celebahq-256's UNet
    "sample_size": 256,
    "layers_per_block": 2,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


@dataclass(frozen=True)
class Inference:
    """A method's network at its official size."""

    build: Callable[[], Any]
    size: int  # px
    run: Callable[[Any, Tensor], Tensor]
    row: str = ""  # of Syn2Auth's table 1
    evaluations: int = 1  # of the network, for an image


def _of_unsb(network: Any, images: Tensor) -> Tensor:
    n, device = len(images), images.device
    return network(images, torch.zeros(n, device=device), torch.zeros(n, network.noise, device=device))


class Inverter(nn.Module):
    """e4e's encoder and the generator of 1024 px."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.generator = E4EEncoder(), Painter(1024)

    def forward(self, images: Tensor) -> Tensor:
        """Paint again."""
        return self.generator.synthesis(self.encoder(images))


INFERENCE = {
    "codeformer": Inference(CodeFormer, 512, lambda network, images: network(images, 0.5)[0], "codeformer"),
    "vsait": Inference(Generator, 256, lambda network, images: network(images), "vsait"),
    "decent": Inference(ResnetGenerator, 256, lambda network, images: network(images), "decent"),
    "unsb-1": Inference(UNSBGenerator, 256, _of_unsb, "unsb"),
    "unsb-5": Inference(UNSBGenerator, 256, _of_unsb, "unsb", 5),
    "ddim-50": Inference(partial(UNet2DModel, **CELEBAHQ), 256, lambda network, x: network(x, 1).sample, "ddim", 100),
    "stylegan-e4e": Inference(Inverter, 256, lambda network, images: network(images)),
}
LEARNING = {"vsait": plain_vsait, "decent": plain_decent, "unsb": plain_unsb}


def image(inference: Inference, device: str, batch: int, repeats: int) -> tuple[float, float]:
    """Seconds and operations of an image."""
    network = inference.build().eval().requires_grad_(False).to(device)
    images = torch.rand(batch, 3, inference.size, inference.size, device=device) * 2 - 1
    run = partial(inference.run, network, images)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            run()
        seconds = min(timed(run, device) for _ in range(repeats))
    return inference.evaluations * seconds / batch, inference.evaluations * counter.get_total_flops() / batch


def steps(method: str, side: int, device: str, batch: int, repeats: int) -> dict[str, float]:
    """Rates of a training step of one image, of the plain step, and of a batch."""
    knobs = knobs_of(method)(**({"load": side, "crop": side} if side else {}))
    module = importlib.import_module(f"stages.transfer.{method}.learner")
    first, second = (module.Learner(knobs, torch.device(device)) for _ in range(2))
    _, plain = LEARNING[method](first)
    one, many = (
        [torch.rand(n, 3, knobs.crop, knobs.crop, device=device) * 2 - 1 for _ in range(3)] for n in (1, batch)
    )
    runs = {
        "single": lambda: first.step(*one[:2], torch.Generator(device).manual_seed(0)),
        "plain": lambda: plain(*one[:2], 0, *one[2:] if method == "unsb" else ()),
        "batched": lambda: second.step(*many[:2], torch.Generator(device).manual_seed(0)),
    }
    seconds = [[timed(run, device) for run in runs.values()] for _ in range(1 + repeats)][1:]  # in turn: rates change
    single, peer, batched = (min(some) for some in zip(*seconds, strict=True))
    return {"steps_per_second": 1 / single, "to_plain": peer / single, "batched": batch * single / batched}


def main(
    methods: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
    train: Annotated[bool, typer.Option("--train", help="A training step, instead of an image.")] = False,
    batch: int = 4,
    side: Annotated[int, typer.Option(help="Of a training step's images, px; 0 is the official size.")] = 0,
    repeats: int = 3,
    device: str = "cpu",
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    found: dict[str, Any] = {"device": device, "threads": threads, "batch": batch}
    if train:
        for method in methods or LEARNING:
            numbers = steps(method, side, device, batch, repeats)
            found |= {f"{method}_{name}": round(value, 3) for name, value in numbers.items()}
    else:
        limit = peak(device, torch.float32)
        chosen = dict.fromkeys(["codeformer", *(methods or INFERENCE)])  # which the others are compared with
        costs = {name: image(INFERENCE[name], device, batch, repeats) for name in chosen}
        for name, (seconds, operations) in costs.items():
            numbers = {
                "seconds": seconds,
                "gflop": operations / 1e9,
                "of_matmul": operations / seconds / limit,
                "to_codeformer": seconds / costs["codeformer"][0],
            }
            if row := INFERENCE[name].row:
                numbers["published_to_codeformer"] = PUBLISHED[row] / PUBLISHED["codeformer"]
            found |= {f"{name}_{key}": round(value, 4) for key, value in numbers.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
