"""The knobs, typed: `params.yaml` is read once into frozen dataclasses and checked before anything is written.

Only `conf/` is edited; `params.yaml` is composed from it (`make params`). A field's comment states its unit, its range
and, where the papers leave it open, why the default is what it is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

METHODS = ("none", "arc2face")
PRECISIONS = ("fp32", "bf16", "fp16")


class ParamsError(ValueError):
    """A knob with a value it cannot have; the message names the knob, the value and the range."""


def check(condition: bool, message: str) -> None:
    """Raise `ParamsError(message)` unless the condition holds."""
    if not condition:
        raise ParamsError(message)


@dataclass(frozen=True)
class Fetch:
    """What is fetched or rendered.

    `embedded` is rendered on the spot by the knobs below; other names are the catalogue's (docs/data.md).
    """

    source: str = "embedded"  # embedded | digiface-1m
    target: str = "embedded"  # embedded | ffhq
    benchmarks: tuple[str, ...] = ("embedded",)  # embedded, insightface-bins, ijbb, ijbc, rfw
    weights: tuple[str, ...] = ()  # arc2face, sd15, ...
    target_images: int = 1000  # of ffhq: the paper's 1000 (Digi2Real, section 3)
    mirror: str = ""  # a folder (linked) or an address with the layout of data/, asked first; "" is none
    accept_licenses: tuple[str, ...] = ()  # names of licences whose terms you have read and accept
    parallel: int = 4  # files at a time
    world_seed: int = 0  # of the embedded people; apart from `seed`, so that three training seeds meet one world
    source_images_per_id: int = 10  # rendered per source identity; >= images_per_id for method none
    source_ids_per_zip: int = 50
    source_size: int = 112  # px, DigiFace-1M's
    target_ids: int = 100
    target_images_per_id: int = 4
    target_size: int = 112  # px
    pairs: int = 600  # per embedded pair benchmark, a multiple of 20 from 40 (10 folds, half of them genuine)
    templates: int = 60  # identities of the embedded template benchmark
    group_pairs: int = 100  # per group, a multiple of 20 from 40
    workers: int = 0  # processes; 0 is one a core

    def __post_init__(self) -> None:
        for name in ("pairs", "group_pairs"):
            count = getattr(self, name)
            check(
                count >= 40 and count % 20 == 0,
                f"fetch.{name} is {count}: 10 folds of as many genuine as impostor pairs need a multiple of 20 from 40",
            )
        for name in ("source_images_per_id", "source_ids_per_zip", "target_ids", "target_images_per_id"):
            check(getattr(self, name) >= 1, f"fetch.{name} is {getattr(self, name)}: at least 1")
        for name in ("source_size", "target_size"):
            check(getattr(self, name) >= 32, f"fetch.{name} is {getattr(self, name)} px: at least 32")
        check(self.templates >= 2, f"fetch.templates is {self.templates}: an impostor pair needs at least 2")
        check(self.world_seed >= 0, f"fetch.world_seed is {self.world_seed}: at least 0")
        check(self.workers >= 0, f"fetch.workers is {self.workers}: at least 0, which is one a core")
        check(self.target_images >= 1, f"fetch.target_images is {self.target_images}: at least 1")
        check(self.parallel >= 1, f"fetch.parallel is {self.parallel}: at least 1")


@dataclass(frozen=True)
class Embed:
    """The identity encoder."""

    encoder: str = "stages/embed/encoder.onnx"  # an ONNX file that insightface's ArcFaceONNX reads
    batch_size: int = 64
    align: bool = False  # detect and warp first; off, since a DigiFace crop is fed as it is (facts, section 14.4)


@dataclass(frozen=True)
class Filter:
    """Which identities are kept."""

    score: str = "max"  # max | mean cosine similarity to the other identities (the paper does not say which)
    threshold: float = 0.5  # cosine; pairs above it are counted in the metrics
    block: int = 768  # lines of a block of the similarity matrix; the result does not depend on it
    device: str = "auto"  # auto | cpu | cuda

    def __post_init__(self) -> None:
        check(self.score in ("max", "mean"), f"filter.score is {self.score!r}: max or mean")
        check(-1 <= self.threshold <= 1, f"filter.threshold is {self.threshold}: a cosine in [-1, 1]")


@dataclass(frozen=True)
class Gap:
    """The domain gap and how it is applied."""

    n_images: int = 1000  # of each domain; the paper's
    weight: float = 1.0  # of delta in generation; 0 is without. Equation 2 adds delta as it is
    branch: str = "conditional"  # conditional | both: of classifier-free guidance. The unconditional branch stands for
    # every face, so shifting it too would cancel the shift's amplification by guidance; the paper does not say
    batch_size: int = 64  # images

    def __post_init__(self) -> None:
        check(self.n_images >= 4, f"gap.n_images is {self.n_images}: at least 4, as the distances halve them")
        check(self.branch in ("conditional", "both"), f"gap.branch is {self.branch!r}: conditional or both")
        check(self.batch_size >= 1, f"gap.batch_size is {self.batch_size}: at least 1")


@dataclass(frozen=True)
class Synthesize:
    """The image shards, and who judges them."""

    codec: str = "png"  # png | jpeg | webp
    quality: int = 95  # of jpeg and webp
    ids_per_shard: int = 64
    workers: int = 0  # processes; 0 is one a GPU, or one a core (each of arc2face.threads) on a CPU
    judge: str = "stages/embed/second.onnx"  # an encoder as embed.encoder is, which made none of the identity vectors
    judge_ids: int = 50  # identities that are judged, evenly from the filter's order; the cost grows with them

    def __post_init__(self) -> None:
        check(self.codec in ("png", "jpeg", "webp"), f"synthesize.codec is {self.codec!r}: png, jpeg or webp")
        check(1 <= self.quality <= 100, f"synthesize.quality is {self.quality}: 1 to 100")
        check(self.ids_per_shard >= 1, f"synthesize.ids_per_shard is {self.ids_per_shard}: at least 1")
        check(self.workers >= 0, f"synthesize.workers is {self.workers}: at least 0")
        check(self.judge_ids >= 2, f"synthesize.judge_ids is {self.judge_ids}: at least 2, to tell identities apart")


@dataclass(frozen=True)
class Arc2Face:
    """The generator of method `arc2face`, and where its identity vectors come from."""

    weights: str = "stages/transfer/arc2face/generator"  # a diffusers folder, or the official `arc2face/` + `encoder/`
    base: str = ""  # Stable Diffusion 1.5's folder, which the official weights need for VAE, tokenizer and scheduler
    lora: str = ""  # LCM-LoRA's folder or file, fused into the UNet; with it LCMScheduler, guidance 1
    scheduler: str = "DPMSolverMultistepScheduler"  # of diffusers; its default is DPM-Solver++ 2M, as the official demo
    steps: int = 25
    guidance: float = 3.0  # classifier-free guidance scale; 1 is none
    size: int = 0  # px; 0 is what the UNet was trained at
    latents_per_id: int = 5  # identity vectors; Digi2Real, "Dataset Generation"
    images_per_latent: int = 5  # of which `images_per_id` in all are used (the paper: 20 of 25)
    order: str = "interleaved"  # interleaved | grouped: which 20 of the 25; interleaved uses all vectors alike
    sources: str = "random"  # random | first: which source images a vector walks to (sampling.py)
    prototype: str = "all"  # all | selected: whose mean the prototype is (sampling.py)
    batch_size: int = 32  # images; a batch never spans two identities, so that its make-up is fixed
    decode_slice: int = 8  # images that the VAE decodes at a time
    precision: str = "fp32"  # fp32 | bf16 | fp16
    channels_last: bool = False  # memory layout of the convolutions; helps tensor cores
    compile: bool = False  # torch.compile the UNet and the VAE's decoder: minutes once, worth it for many images
    device: str = "auto"  # auto | cpu | cuda
    threads: int = 1  # of torch on a CPU, per process; results are equal for equal thread counts

    def __post_init__(self) -> None:
        check(self.guidance >= 1, f"arc2face.guidance is {self.guidance}: at least 1")
        check(self.size >= 0, f"arc2face.size is {self.size} px: at least 0, which is what the UNet was trained at")
        for name in ("steps", "latents_per_id", "images_per_latent", "batch_size", "decode_slice", "threads"):
            check(getattr(self, name) >= 1, f"arc2face.{name} is {getattr(self, name)}: at least 1")
        for name, values in {
            "order": ("interleaved", "grouped"),
            "sources": ("random", "first"),
            "prototype": ("all", "selected"),
            "precision": PRECISIONS,
        }.items():
            value = getattr(self, name)
            check(value in values, f"arc2face.{name} is {value!r}: one of {', '.join(values)}")


@dataclass(frozen=True)
class Align:
    """MTCNN and the five-point warp; the defaults are facenet-pytorch's."""

    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)  # of P-, R- and O-Net, probabilities
    factor: float = 0.709  # of the image pyramid
    min_face: int = 20  # px
    missing: str = "skip"  # skip | keep (the centre crop): an image without a face
    codec: str = "png"  # png | jpeg | webp
    batch_size: int = 64  # images that a worker holds at once; changes no result
    ids_per_shard: int = 64
    device: str = "auto"  # auto | cpu | cuda

    def __post_init__(self) -> None:
        check(all(0 <= t < 1 for t in self.thresholds), f"align.thresholds is {self.thresholds}: each in [0, 1)")
        check(self.min_face >= 12, f"align.min_face is {self.min_face} px: at least 12, P-Net's field")
        check(self.batch_size >= 1, f"align.batch_size is {self.batch_size}: at least 1")
        check(self.ids_per_shard >= 1, f"align.ids_per_shard is {self.ids_per_shard}: at least 1")
        check(self.missing in ("skip", "keep"), f"align.missing is {self.missing!r}: skip or keep")
        check(self.codec in ("png", "jpeg", "webp"), f"align.codec is {self.codec!r}: png, jpeg or webp")
        check(0 < self.factor < 1, f"align.factor is {self.factor}: in (0, 1)")


@dataclass(frozen=True)
class Train:
    """The face recognition network."""

    data: str = "data/align"  # shards, or any other set that stages/train/readers knows: .rec, .lmdb, zip, folder
    backbone: str = "iresnet_tiny"  # ir_18 | ir_50 | ir_101 | iresnet18 | iresnet50 | iresnet100 | iresnet_tiny
    head: str = "adaface"  # adaface | arcface | cosface
    margin: float = 0.4  # AdaFace's and CosFace's; ArcFace's is 0.5 (radians)
    scale: float = 64.0
    h: float = 0.333  # AdaFace's concentration
    t_alpha: float = 0.01  # AdaFace's weight of the newest batch in its norm statistics; the paper's value
    epochs: int = 8
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4  # on all but batch norms
    clip: float = 0.0  # gradient norm; 0 is off, as AdaFace; insightface clips at 5
    schedule: str = "cosine"  # cosine | multistep
    milestones: tuple[int, ...] = ()  # epochs at which multistep divides lr by 10; AdaFace's are 12, 20, 24 of 26
    warmup_epochs: float = 0.0  # lr rises linearly from 0
    augment: float = 0.2  # probability of each of AdaFace's three augmentations
    flip: float = 0.5  # probability
    precision: str = "fp32"  # fp32 | bf16 | fp16 (GPU only)
    threads: int = 2  # of torch on a CPU; results are equal for equal thread counts
    workers: int = 0  # processes that read and augment; 0 is the training process itself
    checkpoint_minutes: float = 1.0
    device: str = "auto"  # auto | cpu | cuda

    def __post_init__(self) -> None:
        heads = ("adaface", "arcface", "cosface")
        check(self.head in heads, f"train.head is {self.head!r}: one of {', '.join(heads)}")
        check(self.schedule in ("cosine", "multistep"), f"train.schedule is {self.schedule!r}: cosine or multistep")
        check(self.precision in PRECISIONS, f"train.precision is {self.precision!r}: one of {', '.join(PRECISIONS)}")
        check(self.device in ("auto", "cpu", "cuda"), f"train.device is {self.device!r}: auto, cpu or cuda")
        check(self.epochs >= 1, f"train.epochs is {self.epochs}: at least 1")
        check(self.batch_size >= 2, f"train.batch_size is {self.batch_size}: at least 2, for the batch norms")
        check(self.lr > 0, f"train.lr is {self.lr}: greater than 0")
        check(self.threads >= 1, f"train.threads is {self.threads}: at least 1")
        check(0 <= self.warmup_epochs < self.epochs, f"train.warmup_epochs is {self.warmup_epochs}: in [0, epochs)")
        for name in ("augment", "flip"):
            check(0 <= getattr(self, name) <= 1, f"train.{name} is {getattr(self, name)}: a probability")


@dataclass(frozen=True)
class Evaluate:
    """The protocols; the defaults are insightface's."""

    flip: bool = True  # add the embedding of the mirror image (F1 of the template variants)
    protocol: str = "insightface"  # insightface (distance, <) | adaface (cosine, >): accuracy over folds
    norm: bool = True  # templates: keep the norm of an embedding (N1)
    detector: bool = True  # templates: weigh an image with its detector score (D1)
    nearest_far: bool = True  # templates: TAR at the FAR nearest to the asked one, as published; false: not above it
    search: str = "insightface"  # insightface (both galleries as one) | galleries (each by itself, the mean)
    far: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # left out where finer than one impostor pair
    batch_size: int = 128
    device: str = "auto"

    def __post_init__(self) -> None:
        check(
            self.protocol in ("insightface", "adaface"),
            f"evaluate.protocol is {self.protocol!r}: insightface or adaface",
        )
        check(
            self.search in ("insightface", "galleries"),
            f"evaluate.search is {self.search!r}: insightface or galleries",
        )
        check(all(0 < far < 1 for far in self.far), f"evaluate.far is {self.far}: rates in (0, 1)")
        check(self.batch_size >= 1, f"evaluate.batch_size is {self.batch_size}: at least 1")


@dataclass(frozen=True)
class Report:
    """The report."""

    rows: int = 8  # identities of a sample sheet
    columns: int = 8  # images of an identity


@dataclass(frozen=True)
class Params:
    """All knobs. The six at the top are the ones people type."""

    profile: str = "embedded"
    method: str = "none"
    n_ids: int = 200
    images_per_id: int = 10
    alpha: float = 2.0  # of Beta(alpha, alpha); the paper's choice (Table 2)
    seed: int = 0
    fetch: Fetch = field(default_factory=Fetch)
    embed: Embed = field(default_factory=Embed)
    filter: Filter = field(default_factory=Filter)
    gap: Gap = field(default_factory=Gap)
    synthesize: Synthesize = field(default_factory=Synthesize)
    arc2face: Arc2Face = field(default_factory=Arc2Face)
    align: Align = field(default_factory=Align)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        check(self.method in METHODS, f"method is {self.method!r}: one of {', '.join(METHODS)}")
        check(self.n_ids > 1, f"n_ids is {self.n_ids}: at least 2")
        check(self.images_per_id >= 1, f"images_per_id is {self.images_per_id}: at least 1")
        check(self.alpha > 0, f"alpha is {self.alpha}: greater than 0")
        check(
            self.method != "none"
            or self.fetch.source != "embedded"
            or self.images_per_id <= self.fetch.source_images_per_id,
            f"images_per_id is {self.images_per_id}, but method none has only the source's "
            f"fetch.source_images_per_id = {self.fetch.source_images_per_id} images of an identity",
        )
        made = self.arc2face.latents_per_id, self.arc2face.images_per_latent
        check(
            self.method != "arc2face" or self.images_per_id <= made[0] * made[1],
            f"images_per_id is {self.images_per_id}, but method arc2face makes arc2face.latents_per_id = {made[0]} "
            f"latents of arc2face.images_per_latent = {made[1]} images: at most {made[0] * made[1]}",
        )


def pick_device(name: str, knob: str) -> str:
    """What `auto`, `cpu` or `cuda` means on this machine: `cpu` or `cuda`.

    Raises:
        ParamsError: `cuda` without a GPU; the message names the knob.
    """
    import torch  # here, so that `r2r --help` does not wait for it

    check(name in ("auto", "cpu", "cuda"), f"{knob} is {name!r}: auto, cpu or cuda")
    gpu = torch.cuda.is_available()
    check(name != "cuda" or gpu, f"{knob} is cuda, and torch sees no GPU: set it to cpu or auto")
    return "cuda" if gpu and name != "cpu" else "cpu"


T = TypeVar("T")


def parse(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build a block from plain YAML values: unknown and mistyped knobs are errors that name themselves."""
    hints = get_type_hints(cls)
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for name in values:
        check(name in names, f"{where}{name}: no such knob; there are {', '.join(sorted(names))}")
    return cls(**{name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint):
        check(isinstance(value, dict), f"{name} is {value!r}: a block of knobs was expected")
        return parse(hint, value, f"{name}.")  # type: ignore[arg-type]
    if getattr(hint, "__origin__", None) is tuple:
        check(isinstance(value, list | tuple), f"{name} is {value!r}: a list was expected")
        inner = get_args(hint)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        check(len(kinds) == len(value), f"{name} has {len(value)} values: {len(kinds)} were expected")
        return tuple(_convert(kind, item, name) for kind, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML 1.1 reads 1e-4 as text
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # `-S n_ids=1e4` arrives as 10000.0
    check(
        isinstance(value, hint) and not (hint is int and isinstance(value, bool)),
        f"{name} is {value!r}: a value of type {hint.__name__} was expected",
    )
    return value


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check `params.yaml`.

    Raises:
        ParamsError: no such file, or a knob that does not exist or has a value that it cannot have.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: not found; run from the project's root, or compose it with `make params`")
    values = yaml.safe_load(path.read_text())
    check(isinstance(values, dict), f"{path}: no mapping of knobs")
    return parse(Params, values)


def compose(overrides: list[str], conf: Path = Path("conf")) -> str:
    """Compose `params.yaml` from `conf/` as `dvc exp run -S` does, and check it.

    Args:
        overrides: Hydra overrides, such as `profile=smoke` or `n_ids=40`.
        conf: the folder of config.yaml and profile/.

    Returns:
        The text of params.yaml.
    """
    from tempfile import TemporaryDirectory

    from dvc.utils.hydra import compose_and_dump

    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        compose_and_dump(path, str(conf.resolve()), None, "config", "", overrides)
        load(path)
        return path.read_text()
