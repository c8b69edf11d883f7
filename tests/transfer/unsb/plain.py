"""UNSB's step as the official code has it, written down as it comes, with everything computed anew."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.transfer.unsb.bridge import BRIDGE
from stages.transfer.unsb.losses import bridge_loss, energy_loss, patch_nce
from stages.transfer.unsb.training import UNSBTraining

Step = Callable[..., dict[str, Tensor]]


def plain(training: UNSBTraining) -> tuple[dict[str, nn.Module], Step]:
    """Copies of the networks, and a step of theirs: D, E, then G with F; source, target and second image in turn."""
    networks = copy.deepcopy(training.networks)
    g, f, d, e = (networks[name] for name in ("G", "F", "D", "E"))
    optimisers = {name: torch.optim.Adam(x.parameters(), 2e-4, (0.5, 0.999)) for name, x in networks.items()}

    def step(source: Tensor, target: Tensor, seed: int, second: Tensor) -> dict[str, Tensor]:
        n, drawn = len(source), torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=drawn).to(source)

        t = int(torch.randint(5, (1,), generator=drawn))
        stands = torch.cat([source, target, second])
        with torch.no_grad():
            for before in range(t):
                z, each = normal(3 * n, g.noise), torch.full((n,), before)
                parts = zip(stands.split(n), z.split(n), strict=True)
                ends = torch.cat([g(x, each, noise) for x, noise in parts])
                stands = BRIDGE.move(stands, ends, before + 1, normal(*stands.shape))
        z, each = normal(3 * n, g.noise), torch.full((n,), t)
        parts = zip(stands.split(n), z.split(n), strict=True)
        fake, same, fake_second = (g(x, each, noise) for x, noise in parts)
        x, _, x_second = stands.split(n)

        hinge = (d(fake.detach(), each).square().mean() + (d(target, each) - 1).square().mean()) / 2
        optimisers["D"].zero_grad()
        hinge.backward()
        optimisers["D"].step()

        pair, other = torch.cat([x, fake], 1), torch.cat([x_second, fake_second], 1)
        energy = energy_loss(e(pair.detach(), each, pair.detach()), e(pair.detach(), each, other.detach()))
        optimisers["E"].zero_grad()
        energy.backward()
        optimisers["E"].step()

        own, cross = e(pair, each, pair), e(pair, each, other)
        gan = (d(fake, each) - 1).square().mean()
        sb = bridge_loss(own, cross, x, fake, (5 - t) / 5, 0.01)
        contrasts = []
        for image, translated in ((source, fake), (target, same)):
            z = normal(n, g.noise)
            keys, queries = (g.encode(one, 0 * each, z) for one in (image, translated))
            places = [torch.randperm(k.shape[2] * k.shape[3], generator=drawn)[: training.patches] for k in keys]
            layers = zip(f(queries, places), f(keys, places), strict=True)
            contrasts.append(sum(patch_nce(query, key) for query, key in layers) / 5)
        contrast = sum(contrasts) / 2
        for network in networks.values():
            network.zero_grad()
        (gan + sb + contrast).backward()
        optimisers["G"].step()
        optimisers["F"].step()
        return {"gan": gan, "sb": sb, "contrast": contrast, "discriminator": hinge, "energy": energy}

    return networks, step
