"""The moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a model's parameters, a part of a checkpoint beside the model.

    The weights of the first steps, which are far from good, are forgotten sooner: the decay of step k is
    min(decay, (1 + k) / (10 + k)), as in TensorFlow's and diffusers' averages.

    Args:
        model: whose parameters; the average starts at what they are.
        decay: in [0, 1); 0.999 averages over about a thousand steps.
        norms: average the statistics of its batch norms, too, which are those of its weights.
    """

    def __init__(self, model: nn.Module, decay: float, norms: bool = False) -> None:
        self.decay, self.norms = decay, norms
        self.weights = {name: weight.detach().clone() for name, weight in self._of(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the parameters that step `step`, counted from 0, has led to."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), list(self._of(model).values()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Make the average the model's parameters."""
        for name, weight in self._of(model).items():
            weight.copy_(self.weights[name])

    def _of(self, model: nn.Module) -> dict[str, Tensor]:
        buffers = dict(model.named_buffers()) if self.norms else {}
        weights: dict[str, Tensor] = dict(model.named_parameters())
        return weights | {name: value for name, value in buffers.items() if value.is_floating_point()}

    def state_dict(self) -> dict[str, Tensor]:
        """The average by the parameters' names."""
        return self.weights

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved average."""
        for name, weight in self.weights.items():
            weight.copy_(state[name])
