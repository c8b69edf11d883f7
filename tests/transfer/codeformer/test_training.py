import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stages.transfer.codeformer.networks import VQGAN, CodeFormer, Discriminator
from stages.transfer.codeformer.training import (
    adaptive_weight,
    clean_codes,
    code_losses,
    code_step,
    fusion_phase,
    fusion_step,
    vqgan_step,
)
from tests.transfer.codeformer.tiny import SIZES, VQGAN_SIZES


def perceptual(a, b):
    return F.mse_loss(F.avg_pool2d(a, 4), F.avg_pool2d(b, 4))


def adam(network, rate=1e-3):
    return torch.optim.Adam([p for p in network.parameters() if p.requires_grad], rate, (0.9, 0.99))


@pytest.fixture
def clean():
    torch.manual_seed(0)
    coarse = torch.rand(2, 3, 4, 4) * 2 - 1
    return F.interpolate(coarse, 32, mode="bilinear")


@pytest.fixture
def restorer():
    torch.manual_seed(0)
    vqgan = VQGAN(**VQGAN_SIZES)
    network = CodeFormer(**SIZES)
    network.load_state_dict(vqgan.state_dict(), strict=False)
    return network.train(), vqgan.eval()


def changed(before, network):
    return {name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def test_the_autoencoder_learns(clean):
    torch.manual_seed(0)
    network = VQGAN(**VQGAN_SIZES).train()
    optimiser = adam(network, 3e-3)
    losses = [vqgan_step(network, None, (optimiser, None), clean, perceptual) for _ in range(30)]
    assert set(losses[0]) == {"reconstruction", "codebook"}
    assert losses[-1]["reconstruction"] < 0.7 * losses[0]["reconstruction"]


def test_stage_1_with_a_discriminator(clean):
    torch.manual_seed(0)
    network, discriminator = VQGAN(**VQGAN_SIZES).train(), Discriminator(4, 1).train()
    before = copy.deepcopy(network.state_dict()), copy.deepcopy(discriminator.state_dict())
    with torch.no_grad():
        real = float(F.relu(1 - copy.deepcopy(discriminator)(clean)).mean())
    output, _, _ = network(clean)
    reconstruction = F.l1_loss(output, clean) + perceptual(output, clean)
    fooled = -copy.deepcopy(discriminator)(output).mean()
    pulls = [
        torch.autograd.grad(x, network.generator.blocks[-1].weight, retain_graph=True)[0]
        for x in (reconstruction, fooled)
    ]
    weight = min(1.0, float(pulls[0].norm() / (pulls[1].norm() + 1e-4)))
    losses = vqgan_step(network, discriminator, (adam(network), adam(discriminator)), clean, perceptual)
    assert set(losses) == {"reconstruction", "codebook", "gan", "real", "fake"}
    assert losses["real"] == pytest.approx(real, rel=1e-5)
    assert losses["reconstruction"] == pytest.approx(float(reconstruction.detach()), rel=1e-5)
    assert losses["gan"] == pytest.approx(0.8 * weight * float(fooled.detach()), rel=1e-4)
    assert changed(before[0], network) == {"encoder", "quantize", "generator"}
    assert changed(before[1], discriminator) == {"main"}


def test_the_code_losses_by_loops(restorer):
    network, _ = restorer
    logits, latents = torch.randn(2, 64, 16), torch.randn(2, 8, 8, 8)
    codes = torch.randint(16, (2, 64))
    losses = code_losses(network, logits, latents, codes)
    book = network.quantize.embedding.weight
    entropy = distance = 0.0
    for n in range(2):
        for place in range(64):
            code = codes[n, place]
            entropy -= float(logits[n, place].double().log_softmax(0)[code]) / 128
            i, j = divmod(place, 8)
            distance += float(((latents[n, :, i, j] - book[code]) ** 2).detach().sum()) / (128 * 8)
    assert float(losses["codes"]) == pytest.approx(0.5 * entropy, rel=1e-5)
    assert float(losses["latents"].detach()) == pytest.approx(distance, rel=1e-5)


def test_stage_2_reads_the_clean_codes_off_a_degraded_image(clean, restorer):
    network, vqgan = restorer
    degraded = F.interpolate(F.avg_pool2d(clean, 4), 32)
    before, optimiser = copy.deepcopy(network.state_dict()), adam(network)
    losses = [code_step(network, vqgan, optimiser, clean, degraded) for _ in range(25)]
    assert losses[-1]["codes"] < 0.7 * losses[0]["codes"]
    fixed = {"quantize", "generator", "fuse_convs_dict"}
    assert changed(before, network).isdisjoint(fixed)
    assert {"encoder", "ft_layers", "position_emb", "idx_pred_layer"} <= changed(before, network)
    assert torch.equal(clean_codes(vqgan, clean), vqgan(clean)[2])


@pytest.mark.parametrize("mild", [True, False])
def test_stage_3_fuses_on_mild_degradation_only(clean, restorer, mild):
    network, vqgan = restorer
    discriminator = Discriminator(4, 1)
    before = copy.deepcopy(network.state_dict()), copy.deepcopy(discriminator.state_dict())
    optimisers = adam(network), adam(discriminator)
    losses = fusion_step(network, vqgan, discriminator, optimisers, clean, clean * 0.8, perceptual, 1.0, mild)
    parts = changed(before[0], network)
    assert parts.isdisjoint({"quantize", "generator"})
    assert ("fuse_convs_dict" in parts) == mild
    assert bool(changed(before[1], discriminator)) == mild
    assert ("gan" in losses) == mild
    assert "codes" in losses


def test_stage_3_without_fusion_still_learns_codes(clean, restorer):
    network, vqgan = restorer
    discriminator = Discriminator(4, 1)
    for w in (0.0, 1.0):
        optimisers = adam(network), None
        losses = fusion_step(network, vqgan, discriminator, optimisers, clean, clean, perceptual, w, mild=True)
        assert losses["codes"] > 0
        assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_the_official_schedule_of_stage_3():
    assert [fusion_phase(step) for step in (1, 40_000, 40_001, 80_000)] == [(1, True)] * 2 + [(1.3, True)] * 2
    assert [fusion_phase(step) for step in (80_001, 119_999)] == [(0, False)] * 2
    assert [fusion_phase(step) for step in (120_015, 120_016)] == [(1.3, True), (1.3, False)]


def test_the_adaptive_weight_is_the_ratio_of_gradients():
    layer = nn.Parameter(torch.tensor([3.0, 4.0]))
    reconstruction, adversarial = (layer**2).sum() / 2, 50 * layer[0]
    assert float(adaptive_weight(reconstruction, adversarial, layer)) == pytest.approx(5 / 50, rel=1e-4)
    assert float(adaptive_weight(reconstruction, layer[0] / 100, layer)) == 1
