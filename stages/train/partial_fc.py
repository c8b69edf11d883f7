"""PartialFC (An et al. 2022): class centres shared out over processes, and a sample of them for each step.

Each process holds the centres of its part of the classes and sees the embeddings of all processes, so that the logits
of a batch are spread over the processes by columns. The softmax over them is exact: its maximum and its denominator are
those of all columns. With a sample rate below 1, a process's columns of a step are the centres of the batch's classes
and others drawn at random up to that share, or the former alone where they are more (insightface's `partial_fc_v2.py`).
The centres that were not drawn get no gradient; weight decay and momentum move them nevertheless, as they do there.

Notation: n images of the batch, d dimensions, c classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.train.heads import Head
from stages.training.distributed import Ranks


class PartialFC(nn.Module):
    """A margin head over the processes, with its loss; alone and at rate 1 it is the head and the cross-entropy.

    Its state_dict, which all processes ask for together, holds all centres whatever the number of processes.

    Args:
        head: with all classes, the same in all processes; all but this process's own are taken from it.
        sample_rate: share of its centres that a process uses in a step, in (0, 1].
        ranks: the processes.
    """

    def __init__(self, head: Head, sample_rate: float = 1.0, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.head, self.sample_rate, self.ranks = head, sample_rate, ranks or Ranks()
        self.classes = head.kernel.shape[1]
        self.own = self.ranks.part(self.classes)
        if self.ranks.count > 1:
            head.kernel = nn.Parameter(head.kernel.detach()[:, self.own].clone())
            head.register_state_dict_post_hook(lambda _, state, prefix, *__: _change(state, prefix, self._all))
            head.register_load_state_dict_pre_hook(lambda _, state, prefix, *__: _change(state, prefix, self._cut))

    def forward(self, embeddings: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and accuracy of a batch.

        With soft labels, as SynFace has them: a margin's logits for each of an image's labels and the cross-entropy of
        each count by its weight. AdaFace's statistics then move once a label: officially each is a call of the head.

        Args:
            embeddings: of this process's part of the batch (`Ranks.part`), [m, d] float32, raw.
            labels: [n] int64 of the whole batch, or soft ones [n, k], on the CPU, so that no GPU has to be waited for.
            weights: of soft labels, [n, k] float32 of sum 1.

        Returns:
            The loss, the same in all processes, and the share of the images whose own class (of soft labels that of the
            largest weight) is the nearest.
        """
        device = embeddings.device
        embeddings = self.ranks.whole(embeddings, len(labels))
        several = labels.view(len(labels), -1)
        mine = (several >= self.own.start) & (several < self.own.stop)
        own, kernel = several - self.own.start, cast(Tensor, self.head.kernel)
        if self.sample_rate < 1:
            columns = self.sample(own[mine].unique().to(device))
            kernel, own = kernel[:, columns], torch.searchsorted(columns, own.to(device))
        rows = [of_label.nonzero()[:, 0] for of_label in mine.unbind(1)]
        places = [(row.to(device), own[row, k].to(device)) for k, row in enumerate(rows)]
        made = [self.head.logits(embeddings, kernel, *place) for place in places]
        logits, cosines = made[0]
        if weights is None and self.ranks.count == 1:
            return F.cross_entropy(logits, places[0][1]), (cosines.argmax(1) == places[0][1]).float().mean()

        main = torch.zeros_like(labels) if weights is None else weights.argmax(1)
        shares = [logits.new_ones(len(labels))] if weights is None else weights.to(device).unbind(1)
        if weights is not None:
            logits = shares[0][:, None] * logits
            for share, (of_label, _) in zip(shares[1:], made[1:], strict=True):
                logits = logits + share[:, None] * of_label
        highest = self.ranks.max(logits.amax(1))
        true = torch.zeros_like(highest)
        for share, (row, column) in zip(shares, places, strict=True):
            true = true.index_add(0, row, share[row] * logits[row, column])
        odds, true = self.ranks.sum(torch.stack([(logits - highest[:, None]).exp().sum(1), true]))
        nearest, place = cosines.max(1)
        every = torch.arange(len(labels))
        right = mine[every, main].to(device) & (place == own[every, main].to(device))
        right &= nearest == self.ranks.max(nearest)
        return (odds.log() + highest - true).mean(), self.ranks.sum(right.float().sum()) / len(labels)

    def sample(self, positive: Tensor) -> Tensor:
        """The classes of this process that a step uses, in order: these, [k] int64, and others at random."""
        count = max(1, int(self.sample_rate * (self.own.stop - self.own.start)))
        if len(positive) > count:
            return positive
        chance = torch.rand(self.own.stop - self.own.start, device=positive.device)
        chance[positive] = 2.0
        return chance.topk(count).indices.sort().values

    def keep_whole(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimiser's state_dict hold the momentum of all centres, too."""
        if self.ranks.count == 1:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        place = next(k for k, parameter in enumerate(parameters) if parameter is self.head.kernel)

        def change(state: dict[str, Any], make: Any) -> dict[str, Any]:
            of_kernel = state["state"].get(place, {})
            changed = {name: make(value) for name, value in of_kernel.items() if isinstance(value, Tensor)}
            return state | {"state": state["state"] | ({place: of_kernel | changed} if of_kernel else {})}

        optimizer.register_state_dict_post_hook(lambda _, state: change(state, self._all))
        optimizer.register_load_state_dict_pre_hook(lambda _, state: change(state, self._cut))

    def _all(self, part: Tensor) -> Tensor:
        whole = torch.zeros(len(part), self.classes)
        whole[:, self.own] = part.detach().cpu()
        return self.ranks.sum(whole)

    def _cut(self, whole: Tensor) -> Tensor:
        return whole[:, self.own]


def _change(state: dict[str, Any], prefix: str, make: Callable[[Tensor], Tensor]) -> None:
    state[f"{prefix}kernel"] = make(state[f"{prefix}kernel"])
