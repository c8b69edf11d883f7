"""The learning rate and the optimiser's groups, as AdaFace trains (`train_val.py`)."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.train.knobs import Train
from stages.training import cosine, multistep, warmup


def learning_rate(train: Train, epoch: float) -> float:
    """Learning rate after `epoch` epochs (a fraction within one).

    `cosine` falls from lr to 0 over the run, step by step; `multistep` falls by 10 at each of the milestones. Before
    either, `warmup_epochs` rise linearly from 0.
    """
    if epoch < train.warmup_epochs:
        return train.lr * warmup(epoch, train.warmup_epochs)
    if train.schedule == "multistep":
        return train.lr * multistep(epoch, train.milestones)
    return train.lr * cosine(epoch - train.warmup_epochs, train.epochs - train.warmup_epochs)


def parameter_groups(modules: nn.Module, weight_decay: float, decay_norms: bool = False) -> list[dict]:
    """Weight decay on all trained parameters, on those of batch norms if so asked."""
    plain: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for module in modules.modules():
        group = norms if isinstance(module, _BatchNorm) else plain
        group += [p for p in module.parameters(recurse=False) if p.requires_grad]
    on_norms = weight_decay if decay_norms else 0.0
    return [{"params": plain, "weight_decay": weight_decay}, {"params": norms, "weight_decay": on_norms}]
