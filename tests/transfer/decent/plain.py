"""DECENT's step as the official code has it, written down as it comes, with everything computed anew."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.transfer.decent.optimiser import AveragingAdam
from stages.transfer.decent.training import DecentTraining

Step = Callable[..., dict[str, Tensor]]


def plain(training: DecentTraining) -> tuple[dict[str, nn.Module], Step]:
    """Copies of the networks, and a step of theirs: F, D, then G under F's averages."""
    networks = copy.deepcopy(training.networks)
    g, f_a, f_b, d = (networks[name] for name in ("G", "F_A", "F_B", "D"))
    of_g, of_d = (torch.optim.Adam(x.parameters(), 2e-4, (0.5, 0.999)) for x in (g, d))
    of_f = AveragingAdam([*f_a.parameters(), *f_b.parameters()])

    def log_densities(density, features, places):
        made = []
        for layer, (x, some) in enumerate(zip(features, places, strict=True)):
            rows = torch.cat([image.permute(1, 2, 0).flatten(0, 1)[some] for image in x])
            made.append(density.get_submodule(f"flow_{layer}").log_probs(rows))
        return made

    def draw(features, generator):
        return [torch.randperm(x.shape[2] * x.shape[3], generator=generator)[: training.patches] for x in features]

    def step(source: Tensor, target: Tensor, seed: int) -> dict[str, Tensor]:
        drawn = torch.Generator().manual_seed(seed)
        likelihoods = []
        for density, image in ((f_a, source), (f_b, target)):
            features = [x.detach() for x in g.encode(image)]
            made = log_densities(density, features, draw(features, drawn))
            likelihoods.append(-sum(layer.mean() for layer in made) / 5)
        of_f.zero_grad()
        sum(likelihoods).backward()
        for density in (f_a, f_b):
            norm = math.sqrt(sum(x.grad.square().sum().item() for x in density.parameters()))
            for x in density.parameters():
                x.grad *= min(1, 0.1 / (norm + 1e-6))
        of_f.step()

        hinge = (d(g(source).detach()).square().mean() + (d(target) - 1).square().mean()) / 2
        of_d.zero_grad()
        hinge.backward()
        of_d.step()

        with of_f.averaged():
            fake = g(source)
            gan, identity = (d(fake) - 1).square().mean(), F.l1_loss(g(target), target)
            features = g.encode(source)
            places = draw(features, drawn)
            before, after = log_densities(f_a, features, places), log_densities(f_b, g.encode(fake), places)
            changes = [
                (b.detach() - a).view(len(source), -1) / (x.shape[1] * math.log(2))
                for b, a, x in zip(before, after, features, strict=True)
            ]
            variance = sum(change.var(1).mean() for change in changes) / 5
            of_g.zero_grad()
            (gan + 10 * identity + 0.01 * variance).backward()
            of_g.step()
        return {
            "gan": gan,
            "identity": identity,
            "variance": variance,
            "density": sum(likelihoods) / 2,
            "discriminator": hinge,
        }

    return networks, step
