"""The optimiser of DECENT's density estimators (`models/bnaf.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer


class AveragingAdam(Optimizer):
    """Adam with AMSGrad and a moving average of the weights.

    Two things differ from torch's Adam: eps is added before the second moment's bias is corrected, and the average
    starts at 0 and is not corrected, so that it is small at first (after k steps, 1 - polyak^k of what it would be).

    Args:
        weights: to learn.
        lr, betas, eps: as in Adam.
        polyak: of the average.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        polyak: float = 0.998,
    ) -> None:
        super().__init__(weights, {"lr": lr, "betas": betas, "eps": eps, "polyak": polyak})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient, and its average."""
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["step"] = 0
                    for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_param"):
                        state[name] = torch.zeros_like(weight)
                state["step"] += 1
                state["exp_avg"].lerp_(weight.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
                torch.maximum(state["max_exp_avg_sq"], state["exp_avg_sq"], out=state["max_exp_avg_sq"])
                size = lr * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                weight.addcdiv_(state["exp_avg"], state["max_exp_avg_sq"].sqrt().add_(group["eps"]), value=-size)
                state["exp_avg_param"].lerp_(weight, 1 - group["polyak"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averages in the place of the weights, once there has been a step."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for weight, state in self.state.items():
            weight.data, state["exp_avg_param"] = state["exp_avg_param"], weight.data
