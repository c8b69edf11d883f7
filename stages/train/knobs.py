"""The knobs of `train`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from stages.knobs import Device, Precision, check, knob, knobs
from stages.training.viewer import Viewer

Backbone = Literal[
    "ir_18",
    "ir_34",
    "ir_50",
    "ir_101",
    "ir_152",
    "ir_se_50",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "iresnet152",
    "iresnet200",
    "mbf",
    "mbf_large",
    "LResNet50E_IR",
    "iresnet_tiny",
]
Head = Literal["adaface", "arcface", "arcface-exact", "cosface", "ArcMarginProduct"]
FLOAT32 = 3e38  # about the largest of its numbers
Epoch = Annotated[int, Field(ge=1)]


Weight = Annotated[float, Field(gt=0, le=1000)]


@knobs("real")
class Real:
    """Real people who are trained on beside the others (Digi2Real's table 8)."""

    data: str = knob("", "a set of labelled faces, RGB; train.data is none")
    n_ids: int = knob(0, "its first identities; 0 is none", ge=0)
    weight: float = knob(1.0, "passes over them in an epoch; SynFace's are 10", gt=0, le=1000)


@knobs("digiface")
class DigiFace:
    """Probabilities in DigiFace's recipe: the paper's (section 3.3); their magnitudes, ours, stand in `digiface`."""

    blur: float = knob(0.05, "Gaussian blur", ge=0, le=1)
    motion: float = knob(0.05, "motion blur", ge=0, le=1)
    noise: float = knob(0.035, "Gaussian noise", ge=0, le=1)
    brightness: float = knob(0.15, "another brightness", ge=0, le=1)
    contrast: float = knob(0.3, "another contrast", ge=0, le=1)
    saturation: float = knob(0.1, "another saturation", ge=0, le=1)
    hue: float = knob(0.1, "another hue", ge=0, le=1)
    grey: float = knob(0.01, "grey for colours", ge=0, le=1)
    low_resolution: float = knob(0.01, "down- and up-sampling", ge=0, le=1)
    jpeg: float = knob(0.05, "JPEG compression", ge=0, le=1)
    aspect: float = knob(0.1, "change of the aspect ratio", ge=0, le=1)
    warp: float = knob(1.0, "scale, rotation, shift, and each corner by itself", ge=0, le=1)


@knobs("train")
class Train:
    """The face recognition network."""

    data: str = knob("data/align", "any set of labelled faces: shards, .rec, .lmdb, zip, folder", min_length=1)
    channels: Literal["rgb", "bgr"] = knob("rgb", "the order in which train.data's files hold them")
    second: str = knob("", "a further set, RGB; train.data is none")
    third: str = knob("", "a further set, RGB; train.data is none")
    weights: tuple[Weight, Weight, Weight] = knob((1.0, 1.0, 1.0), "passes over data, second and third in an epoch")
    balanced: bool = knob(False, "show a set's identities equally often, however many images they have")
    order: Literal["random", "shards"] = knob(
        "random", "of an epoch's images; shards reads images that lie together, for sets larger than memory"
    )
    buffer: int = knob(8192, "images among which `shards` shuffles", ge=1)
    backbone: Backbone = knob("iresnet_tiny", "the network; AdaFace's, `ir_*`, see BGR, as do their augmentations")
    head: Head = knob(
        "adaface", "arcface has insightface's gradient, arcface-exact the formula's; ArcMarginProduct is SynFace's"
    )
    margin: float = knob(0.4, "AdaFace's and CosFace's; ArcFace's is 0.5 (radians)", ge=0, lt=math.pi)
    scale: float = knob(64.0, "of the cosines", gt=0)
    h: float = knob(0.333, "AdaFace's concentration", ge=0)
    t_alpha: float = knob(
        0.01, "AdaFace's weight of the newest batch in its norm statistics; the paper's value", gt=0, le=1
    )
    easy_margin: bool = knob(False, "ArcMarginProduct's: no margin where the cosine is below 0")
    interclass_filtering_threshold: float = knob(
        0.0, "ArcFace's and CosFace's: cosine above which another class is left out of the loss; 0 is off", ge=0, lt=1
    )
    epochs: int = knob(8, "passes over the data", ge=1)
    batch_size: int = knob(64, "images of a step, of all processes; at least 2, for the batch norms", ge=2)
    accumulate: int = knob(
        1, "passes that a batch is cut into, for less memory; batch norms and AdaFace's statistics see a pass", ge=1
    )
    last_batch: Literal["drop", "keep"] = knob(
        "drop", "the images that do not fill an epoch's last batch; insightface drops them, AdaFace keeps them"
    )
    lr: float = knob(0.1, "learning rate", gt=0, lt=FLOAT32)
    momentum: float = knob(0.9, "of SGD", ge=0, lt=1)
    weight_decay: float = knob(5e-4, "on all but batch norms", ge=0, lt=FLOAT32)
    decay_norms: bool = knob(False, "weight decay on batch norms too, as insightface and SynFace have it")
    clip: float = knob(0.0, "norm of the backbone's gradient; 0 is off, as AdaFace; insightface clips at 5", ge=0)
    validation: str = knob("", "pairs, or a folder of such, that choose the epoch; train.data is none, and the last")
    validation_epochs: int = knob(1, "between two looks at them", ge=1)
    validation_by_test: bool = knob(
        False, "they may be of data/benchmarks, as is usual; metrics/train.json then says so"
    )
    ema: float = knob(0.0, "decay of the average of the weights, which is then what comes out; 0 is off", ge=0, lt=1)
    sample_rate: float = knob(
        1.0, "share of the other class centres that a step uses (PartialFC); insightface takes 0.1 to 0.3", gt=0, le=1
    )
    schedule: Literal["cosine", "multistep"] = knob("cosine", "of the learning rate")
    milestones: tuple[Epoch, ...] = knob((), "at which multistep divides lr by 10; AdaFace's are 12, 20, 24 of 26")
    warmup_epochs: float = knob(0.0, "lr rises linearly from 0; less than epochs", ge=0)
    recipe: Literal["adaface", "insightface", "randaugment", "digiface", "synface"] = knob(
        "adaface", "the augmentations: AdaFace's, insightface's (flip only), IDiff-Face's, DigiFace's, SynFace's"
    )
    augment: float = knob(
        0.2,
        "probability of each of AdaFace's three augmentations, of which digiface's crop is one; of synface's two (0.5)",
        ge=0,
        le=1,
    )
    flip: float = knob(0.5, "probability", ge=0, le=1)
    domain_mixup: bool = knob(
        False, "SynFace's: each image with one of real.data's, as much of it as a draw for the whole batch says"
    )
    precision: Precision = knob("fp32", "of the backbone, the head being in fp32; fp16 on a GPU only")
    mode: Literal["auto", "deterministic", "fast"] = knob(
        "auto", "results that repeat, or the fastest kernels; auto is deterministic on a CPU and fast on a GPU"
    )
    compile: bool = knob(False, "torch.compile the backbone; minutes before the first step")
    processes: int = knob(
        0, "that share each batch and the class centres; 0 is one for each GPU that is seen, and one on a CPU", ge=0
    )
    sync_batch_norm: bool = knob(
        True, "batch norms see the images of all processes; off is faster, and what insightface and AdaFace do"
    )
    threads: int = knob(2, "of torch on a CPU; results are equal for equal thread counts", ge=1)
    workers: int = knob(0, "processes that read and augment; 0 is the training process itself", ge=0)
    viewer: Viewer = knob("none", "shows each step as it comes, from logs/: none | tensorboard | dvclive")
    checkpoint_minutes: float = knob(1.0, "minutes between checkpoints", ge=0)
    device: Device = knob("auto", "auto | cpu | cuda")

    def __post_init__(self) -> None:
        check(
            self.warmup_epochs < self.epochs,
            f"train.warmup_epochs is {self.warmup_epochs}: less than train.epochs = {self.epochs}",
        )
        check(
            not self.interclass_filtering_threshold or self.head not in ("adaface", "ArcMarginProduct"),
            f"train.interclass_filtering_threshold is of arcface and cosface: train.head is {self.head}, so 0",
        )
