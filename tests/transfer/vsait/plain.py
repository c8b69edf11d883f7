"""VSAIT's step as the official code has it, written down as it comes, with everything computed anew."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.transfer.vsait.training import VSAITTraining

Step = Callable[..., dict[str, Tensor]]


def plain(training: VSAITTraining) -> tuple[dict[str, nn.Module], Step]:
    """Copies of the networks, and a step of theirs: G with the mapping, then D."""
    network, features = copy.deepcopy(training.network), training.features
    options = {"betas": (0.0, 0.9), "weight_decay": 1e-4}
    rates = [one.param_groups[0]["lr"] for one in (training.of_generator, training.of_discriminator)]
    of_g = torch.optim.Adam([*network.g_net.parameters(), *network.g_net_map.parameters()], rates[0], **options)
    of_d = torch.optim.Adam(network.d_net.parameters(), rates[1], **options)

    def judged(image: Tensor, source: Tensor | None = None) -> list[Tensor]:
        predictions = [network.d_net(network.lsh_feat(features(image)))]
        if source is not None:
            vectors = network.lsh_feat(features(source))
            predictions.append(network.d_net(vectors * network.g_net_map(vectors)))
        return predictions

    def step(source: Tensor, target: Tensor, seed: int = 0) -> dict[str, Tensor]:
        fake = network.g_net(source)
        vectors = network.lsh_feat(features(source))
        unbound = network.lsh_feat(features(fake)) * network.g_net_map(vectors).detach()
        vsa = (1 - torch.cosine_similarity(unbound, vectors.detach(), dim=1)).mean()
        adversarial = -sum(prediction.mean() for prediction in judged(fake, source)) / 2
        network.zero_grad()
        (adversarial + 10 * vsa).backward()
        of_g.step()

        fakes, (real,) = judged(network.g_net(source).detach(), source), judged(target)
        hinge = (sum(F.relu(1 + prediction).mean() for prediction in fakes) + F.relu(1 - real).mean()) / 3
        network.zero_grad()
        hinge.backward()
        of_d.step()
        return {"adversarial": adversarial, "vsa": vsa, "discriminator": hinge}

    return dict(network.named_children()), step
