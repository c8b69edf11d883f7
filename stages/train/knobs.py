"""The knobs of `train`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from stages.knobs import Device, Precision, check, knob, knobs

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
    "iresnet200",
    "iresnet_tiny",
]
Head = Literal["adaface", "arcface", "arcface-exact", "cosface"]
FLOAT32 = 3e38  # about the largest of its numbers
Epoch = Annotated[int, Field(ge=1)]


@knobs("train")
class Train:
    """The face recognition network."""

    data: str = knob("data/align", "any set of labelled faces: shards, .rec, .lmdb, zip, folder", min_length=1)
    channels: Literal["rgb", "bgr"] = knob("rgb", "the order in which the set's files hold them")
    backbone: Backbone = knob("iresnet_tiny", "the network; AdaFace's, `ir_*`, see BGR, as do their augmentations")
    head: Head = knob("adaface", "the margin's kind; arcface has insightface's gradient, arcface-exact the formula's")
    margin: float = knob(0.4, "AdaFace's and CosFace's; ArcFace's is 0.5 (radians)", ge=0, lt=math.pi)
    scale: float = knob(64.0, "of the cosines", gt=0)
    h: float = knob(0.333, "AdaFace's concentration", ge=0)
    t_alpha: float = knob(
        0.01, "AdaFace's weight of the newest batch in its norm statistics; the paper's value", gt=0, le=1
    )
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
    clip: float = knob(0.0, "norm of the backbone's gradient; 0 is off, as AdaFace; insightface clips at 5", ge=0)
    ema: float = knob(0.0, "decay of the average of the weights, which is then what comes out; 0 is off", ge=0, lt=1)
    sample_rate: float = knob(
        1.0, "share of the other class centres that a step uses (PartialFC); insightface takes 0.1 to 0.3", gt=0, le=1
    )
    schedule: Literal["cosine", "multistep"] = knob("cosine", "of the learning rate")
    milestones: tuple[Epoch, ...] = knob((), "at which multistep divides lr by 10; AdaFace's are 12, 20, 24 of 26")
    warmup_epochs: float = knob(0.0, "lr rises linearly from 0; less than epochs", ge=0)
    augment: float = knob(0.2, "probability of each of AdaFace's three augmentations", ge=0, le=1)
    flip: float = knob(0.5, "probability", ge=0, le=1)
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
    checkpoint_minutes: float = knob(1.0, "minutes between checkpoints", ge=0)
    device: Device = knob("auto", "auto | cpu | cuda")

    def __post_init__(self) -> None:
        check(
            self.warmup_epochs < self.epochs,
            f"train.warmup_epochs is {self.warmup_epochs}: less than train.epochs = {self.epochs}",
        )
        check(
            not self.interclass_filtering_threshold or self.head != "adaface",
            "train.interclass_filtering_threshold is of arcface and cosface: train.head is adaface, so 0",
        )
