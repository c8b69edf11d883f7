"""Official files of StyleGAN2 and of its encoders, read without running anything in them.

- rosinality's `.pt`: `g_ema`, and often `latent_avg`.
- NVIDIA's `.pkl` (stylegan2-ada-pytorch): a pickle that holds source code and runs it when it is unpickled. Here every
  object in it is an inert record, from which the tensors of `G_ema` are taken by their names.
- pSp's and e4e's `.pt`: `state_dict` with `encoder.` and `decoder.`, `latent_avg`, `opts`.

NVIDIA's weights, and what was trained from them, are not for commercial use.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.store import StoreError
from stages.training.tensors import read_tensors
from stages.transfer.checkpoint import entry, load_strictly
from stages.transfer.stylegan.encoders import E4EEncoder, PSPEncoder, PyramidEncoder
from stages.transfer.stylegan.networks import Generator
from stages.transfer.stylegan.projector import style_statistics

OFFICIAL = (
    "the official ones are e4e_ffhq_encode.pt (`r2r fetch e4e`, github.com/omertov/encoder4editing), "
    "psp_ffhq_encode.pt (`r2r fetch psp`, github.com/eladrich/pixel2style2pixel) and NVIDIA's generators "
    "(`r2r fetch stylegan2-ffhq`), all under NVIDIA's licence: not for commercial use"
)
STAGES = 4  # of an encoder's body
ENCODERS: dict[str, type[PyramidEncoder]] = {"GradualStyleEncoder": PSPEncoder, "Encoder4Editing": E4EEncoder}


@dataclass
class Inverter:
    """A generator, with an encoder for its styles where there is one."""

    generator: Generator
    mean: Tensor | None = None  # [d] or [L, d], of w; None: measured when it is needed
    encoder: PyramidEncoder | None = None
    from_mean: bool = True  # the encoder's styles are relative to the mean

    @cached_property
    def statistics(self) -> tuple[Tensor, float]:
        """See `style_statistics`."""
        return style_statistics(self.generator)

    def to(self, device: str | torch.device) -> Inverter:
        """The same on a device."""
        encoder = self.encoder.to(device) if self.encoder is not None else None
        mean = self.mean.to(device) if self.mean is not None else None
        return Inverter(self.generator.to(device), mean, encoder, self.from_mean)


def load_generator(path: Path) -> Inverter:
    """Read a generator, in evaluation mode on the CPU; its sizes are those of the tensors.

    Args:
        path: rosinality's `.pt` or NVIDIA's `.pkl`.

    Raises:
        StoreError: no such file, a broken or wrong one; names what is missing or unexpected.
    """
    if path.suffix == ".pkl":
        record = read_pickle(path, "G_ema")
        state = tensors_of(record)
        clamp = _attribute(record, "synthesis.b4.conv1", "conv_clamp")
        if clamp is not None and not isinstance(clamp, int | float):
            raise StoreError(f"{path}: G_ema.synthesis.b4.conv1 has the conv_clamp {clamp!r}: a number was expected")
        generator = _generator(from_sg2ada(state, path), path, clamp)
        return Inverter(generator, state.get("mapping.w_avg"))
    return _rosinality(path, read_tensors(path, official=OFFICIAL))


def load_inverter(path: Path) -> Inverter:
    """Read `psp_ffhq_encode.pt` or `e4e_ffhq_encode.pt`, strictly; which of the two, `opts` says.

    All sizes are those of the tensors. A generator's file is read as one, without an encoder.

    Raises:
        StoreError: as `load_generator`, or an encoder that is neither.
    """
    if path.suffix == ".pkl":
        return load_generator(path)
    content = read_tensors(path, official=OFFICIAL)
    if isinstance(content, Mapping) and "g_ema" in content:
        return _rosinality(path, content)
    state = entry(path, content, "state_dict")
    opts = content.get("opts")
    kind = opts.get("encoder_type") if isinstance(opts, Mapping) else None
    if kind not in ENCODERS:
        raise StoreError(f"{path}: opts.encoder_type is {kind!r}: one of {', '.join(ENCODERS)} was expected")
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise StoreError(f"{path}: unexpected {name}; names begin with encoder. or decoder.")
        parts[part][rest] = value
    generator = _generator(parts["decoder"], path)
    encoder = _encoder(ENCODERS[kind], parts["encoder"], generator, path)
    mean, from_mean = content.get("latent_avg"), bool(opts.get("start_from_latent_avg", True))
    wanted = [[generator.dimension], [1, generator.dimension], [generator.styles, generator.dimension]]
    if from_mean and not (isinstance(mean, Tensor) and list(mean.shape) in wanted):
        has = list(mean.shape) if isinstance(mean, Tensor) else mean
        raise StoreError(f"{path}: latent_avg is {has}: {wanted[-1]} was expected")
    return Inverter(generator, mean.float() if isinstance(mean, Tensor) else None, encoder, from_mean)


def from_sg2ada(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """NVIDIA's names and shapes -> rosinality's.

    The weights of both are the same numbers: NVIDIA's torch code turns those of an enlarging convolution as
    rosinality's converter does. Its filters lack the gain of 4 that rosinality's have. `w_avg` and filters that filter
    nothing have no counterpart.

    Raises:
        StoreError: a name that is none of NVIDIA's unconditional generator with skip connections.
    """
    result = {}
    for name, value in state.items():
        target = _rosinality_name(name)
        if target is None:
            raise StoreError(f"{path}: unexpected {name} in G_ema: no unconditional StyleGAN2 with skip connections")
        if not target:
            continue
        if target.endswith("kernel"):
            value = value * 4
        elif target.endswith("noise.weight"):
            value = value.reshape(1)
        elif target.endswith("conv.weight") or target == "input.input":
            value = value[None]
        elif target.startswith("noises."):
            value = value[None, None]
        elif re.fullmatch(r"to_rgb.*\d\.bias", target):
            value = value.view(1, -1, 1, 1)
        result[target] = value
    return result


def _rosinality_name(name: str) -> str | None:
    """The counterpart, empty where there is none, None for a name that is not NVIDIA's."""
    if name == "mapping.w_avg" or name == "synthesis.b4.resample_filter":
        return ""
    if name == "synthesis.b4.const":
        return "input.input"
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
        return f"style.{int(match[1]) + 1}.{match[2]}"
    if not (match := re.fullmatch(r"synthesis\.b(\d+)\.(?:(conv0|conv1|torgb)\.)?([\w.]+)", name)):
        return None
    side, layer, rest = int(match[1]), match[2], match[3]
    level = side.bit_length() - 4  # 0 for 8 px
    if side != 2 ** (level + 3) or level < -1 or (level == -1 and layer not in ("conv1", "torgb")):
        return None
    if layer is None:
        return f"to_rgbs.{level}.upsample.kernel" if rest == "resample_filter" else None
    if layer == "torgb":
        prefix = "to_rgb1" if level < 0 else f"to_rgbs.{level}"
        parts = {"weight": "conv.weight", "bias": "bias"}
    else:
        number = 2 * level + int(layer[-1])
        prefix = "conv1" if level < 0 else f"convs.{number}"
        parts = {"weight": "conv.weight", "bias": "activate.bias", "noise_strength": "noise.weight"}
        if rest == "noise_const":
            return f"noises.noise_{number + 1}" if level >= 0 else "noises.noise_0"
        if rest == "resample_filter":
            return f"{prefix}.conv.blur.kernel" if layer == "conv0" else ""
    parts |= {f"affine.{kind}": f"conv.modulation.{kind}" for kind in ("weight", "bias")}
    return f"{prefix}.{parts[rest]}" if rest in parts else None


def _rosinality(path: Path, content: Any) -> Inverter:
    """What rosinality's file holds."""
    generator = _generator(entry(path, content, "g_ema"), path)
    mean = content.get("latent_avg")
    return Inverter(generator, mean if isinstance(mean, Tensor) else None)


def _encoder(
    kind: type[PyramidEncoder], state: Mapping[str, Tensor], generator: Generator, path: Path
) -> PyramidEncoder:
    """An encoder of the state_dict's sizes, loaded with it; a stage is told from the next by its width."""
    blocks = [name for name in state if re.fullmatch(r"body\.\d+\.res_layer\.1\.weight", name)]
    stages = [(width, len(list(same))) for width, same in groupby(state[name].shape[0] for name in blocks)]
    halved = sum(bool(re.fullmatch(r"styles\.0\.convs\.\d+\.weight", name)) for name in state)
    if len(stages) != STAGES:
        raise StoreError(f"{path}: not the weights of {kind.__name__}: {len(stages)} of {STAGES} widths of its body")
    widths, depths = zip(*stages, strict=True)
    encoder = kind(generator.styles, 16 * 2**halved, depths, widths, generator.dimension)
    load_strictly(encoder, state, path)
    return encoder.eval()


def _generator(state: Mapping[str, Tensor], path: Path, clamp: float | None = None) -> Generator:
    """A generator of the state_dict's sizes, loaded with it."""
    layers = sum(bool(re.fullmatch(r"convs\.\d+\.conv\.weight", name)) for name in state)
    size = 2 ** (layers // 2 + 2)
    try:
        style = state["style.1.weight"].shape[1]
        mlp = sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in state)
        limit = state["input.input"].shape[1]
        generator = Generator(
            size, style, mlp, state[f"convs.{layers - 1}.conv.weight"].shape[1] * size, limit, clamp=clamp
        )
    except (KeyError, IndexError, ValueError) as error:
        some = ", ".join(list(state)[:3])
        raise StoreError(
            f"{path}: not the weights of Generator: {error} missing or ill-shaped; it has {some}"
        ) from error
    load_strictly(generator, state, path)
    return generator.eval()


class Record:
    """In the place of an object of a pickle: takes whatever it is made from, and does nothing."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        """Take anything."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take an item."""

    def extend(self, values: Any) -> None:
        """Take items."""


class _Reader(pickle.Unpickler):
    """Resolves the names of tensors, in their own safe reading, and those of plain containers; all else is a record."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("dnnlib.util", "EasyDict"): dict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch.storage", "_load_from_bytes"): _storage,
        }
        return known.get((module, name), Record)

    def persistent_load(self, key: Any) -> Any:
        raise pickle.UnpicklingError("refers to things outside of the file")


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def read_pickle(path: Path, key: str) -> Record:
    """One network of NVIDIA's pickle, as a record.

    Raises:
        StoreError: no such file, a broken one, or one without such a network.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such file; {OFFICIAL}")
    try:
        with path.open("rb") as file:
            content = _Reader(file).load()
    except Exception as error:  # whatever a broken stream makes of itself
        raise StoreError(f"{path}: not a readable pickle ({type(error).__name__}: {error})") from error
    record = content.get(key) if isinstance(content, dict) else None
    if not isinstance(record, Record) or _state(record) is None:
        has = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise StoreError(f"{path}: no network {key!r}; the file holds {has or 'nothing'}")
    return record


def tensors_of(record: Record, prefix: str = "") -> dict[str, Tensor]:
    """The state_dict of a network's record."""
    state = _state(record) or {}
    result = {
        f"{prefix}{name}": value
        for part in ("_parameters", "_buffers")
        for name, value in (state.get(part) or {}).items()
        if isinstance(value, Tensor)
    }
    for name, module in (state.get("_modules") or {}).items():
        if isinstance(module, Record):
            result |= tensors_of(module, f"{prefix}{name}.")
    return result


def _state(record: Record) -> dict[str, Any] | None:
    """A module's `__dict__`: NVIDIA's objects carry it in the one argument they are rebuilt from."""
    meta = record.args[0] if len(record.args) == 1 else None
    state = meta.get("state") if isinstance(meta, dict) else record.state
    return state if isinstance(state, dict) and "_modules" in state else None


def _attribute(record: Record, path: str, name: str) -> Any:
    for part in path.split("."):
        module = (_state(record) or {}).get("_modules", {}).get(part)
        if not isinstance(module, Record):
            return None
        record = module
    return (_state(record) or {}).get(name)
