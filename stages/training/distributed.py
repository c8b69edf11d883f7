"""Several processes that train one network, each on its part of every batch: all that knows of `torch.distributed`.

`r2r train` starts them itself where there are several GPUs (`launch`). On several machines torchrun starts the same
command on each, and the first process keeps the checkpoint and the result:

    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m stages.cli train
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from stages.knobs import ParamsError
from stages.store import StoreError

T = TypeVar("T")

PATIENCE = timedelta(days=30)  # with a process that waits for another run to make the same


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by default it is alone, and nothing here does anything.

    Attributes:
        rank: its number, from 0.
        count: of the processes.
        group: for messages; tensors go through the default group.
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether it is the one that says, keeps and writes."""
        return self.rank == 0

    def part(self, length: int) -> slice:
        """Which of `length` things in a row are this process's; the parts differ by one at most."""
        return slice(length * self.rank // self.count, length * (self.rank + 1) // self.count)

    def tell(self, value: T) -> T:
        """The first process's value, in all."""
        told = [value]
        if self.count > 1:
            distributed.broadcast_object_list(told, 0, self.group)
        return told[0]

    def gather(self, value: T) -> list[T]:
        """Each process's value, in all."""
        values = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value, self.group)
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, of what then is the same in all: the gradient passes as it is."""
        return _Sum.apply(tensor, False) if self.count > 1 else tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The largest over the processes, without a gradient."""
        tensor = tensor.detach().clone()
        if self.count > 1:
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor

    def whole(self, rows: Tensor, length: int) -> Tensor:
        """The `length` rows of which each process has its part.

        Backwards, a process's rows get the sum of the gradients that the processes' parts of the loss have for them,
        times the number of processes, by which the mean over them in `spread` divides.
        """
        return _Whole.apply(rows, self, length) if self.count > 1 else rows


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, goes_apart: bool) -> Tensor:
        """Whether the processes make different things of the sum, so that their gradients add up."""
        ctx.goes_apart = goes_apart
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.goes_apart:
            gradient = gradient.clone()
            distributed.all_reduce(gradient)
        return gradient, None


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks, length: int) -> Tensor:
        ctx.own, ctx.count = ranks.part(length), ranks.count
        whole = rows.new_zeros(length, *rows.shape[1:])
        whole[ctx.own] = rows
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient[ctx.own] * ctx.count, None, None


def spread(network: nn.Module, ranks: Ranks, device: torch.device, whole_norms: bool) -> nn.Module:
    """The network as each process calls it: its gradients are the mean over the processes.

    Args:
        network: the same in all; its parameters and their names stay.
        ranks: the processes.
        device: its own.
        whole_norms: batch norms see the images of all processes, and not the own ones only.
    """
    if ranks.count == 1:
        return network
    if whole_norms and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    elif whole_norms:  # torch's own is for GPUs
        for norm in network.modules():
            if isinstance(norm, _BatchNorm):
                norm.forward = partial(whole_batch_norm, norm)  # type: ignore[method-assign]
    own = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, own, forward_sync_buffers=False, gradient_as_bucket_view=True)


def apart(network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """While it is open, and unless this is a step's last pass, gradients are those of this process alone."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()


def grad_scaler(ranks: Ranks, device: torch.device, enabled: bool) -> torch.amp.GradScaler:
    """Of the loss; a step that overflows in one process is left out in all."""
    if ranks.count == 1:
        return torch.amp.GradScaler(device.type, enabled=enabled)
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler  # here: it takes long to load

    return ShardedGradScaler(device.type, enabled=enabled)


def whole_batch_norm(norm: Any, x: Tensor) -> Tensor:
    """Batch norm of [n, c, ...] over the images of all processes; in evaluation mode the usual one."""
    if not norm.training:
        return type(norm).forward(norm, x)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
    wide = x.float()
    sums = _Sum.apply(torch.cat([wide.sum(axes), wide.new_tensor([x.numel() / x.shape[1]])]), True)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    away = wide - mean.view(shape)
    variance = _Sum.apply(away.square().sum(axes), True) / count
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    y = away * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)


def started() -> bool:
    """Whether this process is one of several that `launch` or torchrun started."""
    return "WORLD_SIZE" in os.environ


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Train together with the others that were started, on `cpu` or `cuda`, which then is this process's own GPU."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Ranks()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    yield Ranks(distributed.get_rank(), count, distributed.new_group(backend="gloo", timeout=PATIENCE))
    distributed.destroy_process_group()  # not after an error: the process ends, and its peers with it


def launch(count: int, function: Callable[..., object], *args: Any) -> None:
    """Call a function of a module in so many processes of this machine, which can join; with one, all end.

    Raises:
        ParamsError, StoreError, OSError: what one of them raised.
        StoreError: one was killed.
        RuntimeError: any other error, with its traceback.
    """
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    surroundings = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is this process's
        "WORLD_SIZE": str(count),
    }
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    members = [
        context.Process(
            target=_member, args=(surroundings | {"RANK": str(k), "LOCAL_RANK": str(k)}, errors, function, args)
        )
        for k in range(count)
    ]
    try:
        for member in members:
            member.start()
        while running := [member for member in members if member.exitcode is None]:
            wait([member.sentinel for member in running])
            if any(member.exitcode for member in members):
                break
        killed = [k for k, member in enumerate(members) if (member.exitcode or 0) < 0]
    finally:
        for member in members:
            if member.pid:
                member.kill()
                member.join()
    raised = []
    while not errors.empty():
        raised.append(errors.get())
    if told := next((error for error in raised if not isinstance(error, RuntimeError)), None):
        raise told
    if killed:
        raise StoreError(
            f"process {killed[0]} of {count} was killed (out of memory?); run again to go on from the last checkpoint"
        )
    if raised:
        raise raised[0]


def _member(surroundings: Mapping[str, str], errors: Any, function: Callable[..., object], args: tuple) -> None:
    """Call it, and end with the parent, however that ends; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(surroundings)
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, and leaks when this one is killed
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        function(*args)
    except (ParamsError, StoreError, OSError) as error:
        errors.put(error)
        os._exit(1)
    except BaseException:
        errors.put(RuntimeError(traceback.format_exc()[-8000:]))
        os._exit(1)
