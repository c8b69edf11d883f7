import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.store import StoreError
from stages.transfer.codeformer.networks import (
    VQGAN,
    AttnBlock,
    CodeFormer,
    Discriminator,
    Downsample,
    Fuse,
    ResBlock,
    TransformerLayer,
    VectorQuantizer,
    adaptive_instance_norm,
    load_codeformer,
    load_vqgan,
)
from tests.transfer.codeformer.tiny import SIZES, VQGAN_SIZES, tiny
from tests.transfer.official import described, listing, randomised


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("codeformer", CodeFormer),
        ("codeformer_vqgan_code1024", VQGAN),
        ("codeformer_vqgan_disc", Discriminator),
    ],
)
def test_official_names_shapes_and_dtypes(name, kind):
    with torch.device("meta"):
        network = kind()
    assert described(network) == listing(name)


def test_official_sizes_and_taps():
    with torch.device("meta"):
        network = CodeFormer()
    assert sum(parameter.numel() for parameter in network.parameters()) == 94_112_707
    assert network.encoder.taps == {512: 2, 256: 5, 128: 8, 64: 11, 32: 14, 16: 18}
    assert network.generator.taps == {16: 6, 32: 9, 64: 12, 128: 15, 256: 18, 512: 21}
    assert not any(parameter.requires_grad for parameter in network.generator.parameters())
    images, logits, latents = network(torch.zeros(1, 3, 512, 512, device="meta"), 0.5, True)
    assert (images.shape, logits.shape, latents.shape) == ((1, 3, 512, 512), (1, 256, 1024), (1, 256, 16, 16))


@pytest.mark.parametrize(
    ("load", "kind", "sizes"), [(load_codeformer, CodeFormer, SIZES), (load_vqgan, VQGAN, VQGAN_SIZES)]
)
@pytest.mark.parametrize("key", ["params_ema", "params"])
def test_files_round_trip_strictly(tmp_path, load, kind, sizes, key):
    path = tmp_path / "codeformer.pth"
    state = randomised(kind(**sizes)).state_dict()
    torch.save({key: state}, path)
    network = load(path, **sizes)
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    first = next(iter(state))
    torch.save({key: {name.replace(first, "x"): value for name, value in state.items()}}, path)
    with pytest.raises(StoreError, match=rf"codeformer\.pth: .*missing \({first}.*unexpected \(x"):
        load(path, **sizes)


@pytest.mark.parametrize("load", [load_codeformer, load_vqgan])
def test_who_lacks_the_file_learns_of_its_licence(tmp_path, load):
    with pytest.raises(StoreError, match=r"codeformer\.pth: no such .* S-Lab licence 1\.0: not for commercial use"):
        load(tmp_path / "codeformer.pth", **(SIZES if load is load_codeformer else VQGAN_SIZES))


@pytest.mark.parametrize(
    ("load", "kind", "sizes"), [(load_codeformer, CodeFormer, SIZES), (load_vqgan, VQGAN, VQGAN_SIZES)]
)
def test_the_weights_with_ema_are_preferred(tmp_path, load, kind, sizes):
    path = tmp_path / "codeformer.pth"
    ema, last = (randomised(kind(**sizes), seed).state_dict() for seed in (0, 1))
    torch.save({"params": last, "params_ema": ema}, path)
    assert torch.equal(load(path, **sizes).quantize.embedding.weight, ema["quantize.embedding.weight"])


def group_norm(x, groups, weight, bias):
    """Written out, in float64: x [c, h, w]."""
    out = np.empty_like(x)
    size = len(x) // groups
    for start in range(0, len(x), size):
        part = x[start : start + size]
        out[start : start + size] = (part - part.mean()) / np.sqrt(part.var() + 1e-6)
    return out * weight[:, None, None] + bias[:, None, None]


def conv(x, layer):
    """A 3 x 3 or 1 x 1 convolution, zero padded, by loops: x [c, h, w]."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    border = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (border, border), (border, border)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            patch = padded[:, i : i + weight.shape[2], j : j + weight.shape[3]]
            out[:, i, j] = (weight * patch).sum((1, 2, 3)) + bias
    return out


def norm_of(layer):
    return layer.num_groups, layer.weight.detach().numpy(), layer.bias.detach().numpy()


def swish(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("width", [8, 12])
def test_res_block_by_loops(width):
    block = randomised(ResBlock(8, width, 4).double())
    x = np.random.default_rng(0).normal(size=(8, 4, 5))
    residual = conv(swish(group_norm(x, *norm_of(block.norm1))), block.conv1)
    residual = conv(swish(group_norm(residual, *norm_of(block.norm2))), block.conv2)
    shortcut = conv(x, block.conv_out) if width == 12 else x
    with torch.no_grad():
        np.testing.assert_allclose(block(torch.from_numpy(x)[None])[0], residual + shortcut, atol=1e-10)


def test_attention_by_loops():
    block = randomised(AttnBlock(8, 4).double())
    x = np.random.default_rng(0).normal(size=(8, 3, 4))
    h = group_norm(x, *norm_of(block.norm))
    q, k, v = (conv(h, layer).reshape(8, 12) for layer in (block.q, block.k, block.v))
    out = np.zeros((8, 12))
    for query in range(12):
        scores = np.array([q[:, query] @ k[:, key] / np.sqrt(8) for key in range(12)])
        weights = np.exp(scores - scores.max())
        out[:, query] = v @ (weights / weights.sum())
    expected = x + conv(out.reshape(8, 3, 4), block.proj_out)
    with torch.no_grad():
        np.testing.assert_allclose(block(torch.from_numpy(x)[None])[0], expected, atol=1e-10)


def test_downsampling_looks_right_and_down():
    block = randomised(Downsample(2).double())
    x = np.random.default_rng(0).normal(size=(2, 6, 6))
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1)))
    weight, bias = block.conv.weight.detach().numpy(), block.conv.bias.detach().numpy()
    with torch.no_grad():
        out = block(torch.from_numpy(x)[None])[0].numpy()
    assert out.shape == (2, 3, 3)
    for i in range(3):
        for j in range(3):
            patch = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_allclose(out[:, i, j], (weight * patch).sum((1, 2, 3)) + bias, atol=1e-12)


def test_quantising_by_loops():
    quantizer = VectorQuantizer(7, 3, beta=0.25).double()
    torch.nn.init.normal_(quantizer.embedding.weight, generator=torch.Generator().manual_seed(1))
    latents = torch.randn(
        2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    codes, loss, numbers = quantizer(latents)
    book, z = quantizer.embedding.weight.detach().numpy(), latents.detach().numpy()
    distances = []
    for n in range(2):
        for place in range(16):
            i, j = divmod(place, 4)
            best = min(range(7), key=lambda code: ((z[n, :, i, j] - book[code]) ** 2).sum())
            assert numbers[n, place] == best
            np.testing.assert_allclose(codes.detach()[n, :, i, j], book[best], atol=1e-12)
            distances.append((z[n, :, i, j] - book[best]) ** 2)
    assert float(loss.detach()) == pytest.approx(1.25 * np.mean(distances))
    codes.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))


def test_the_codes_term_is_the_weighted_one():
    quantizer = VectorQuantizer(4, 3, beta=0.25).double()
    latents = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    _, loss, numbers = quantizer(latents)
    loss.backward()
    difference = (latents - quantizer.look_up(numbers)).detach()
    torch.testing.assert_close(latents.grad, 2 * difference / 12)
    assert float(quantizer.embedding.weight.grad.sum()) == pytest.approx(float(-0.25 * 2 * difference.sum() / 12))


def test_transformer_layer_by_loops():
    layer = randomised(TransformerLayer(8, 2, 12).double())
    rng = np.random.default_rng(0)
    x, position = rng.normal(size=(5, 8)), rng.normal(size=(5, 8))
    state = {name: value.numpy() for name, value in layer.state_dict().items()}

    def layer_norm(x, name):
        normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return normal * state[f"{name}.weight"] + state[f"{name}.bias"]

    h = layer_norm(x, "norm1")
    weight, bias = state["self_attn.in_proj_weight"], state["self_attn.in_proj_bias"]
    q, k, v = (
        source @ weight[8 * part : 8 * part + 8].T + bias[8 * part : 8 * part + 8]
        for part, source in enumerate((h + position, h + position, h))
    )
    attended = np.zeros((5, 8))
    for head in (slice(0, 4), slice(4, 8)):
        for query in range(5):
            weights = np.exp([q[query, head] @ k[key, head] / 2 for key in range(5)])
            attended[query, head] = weights / weights.sum() @ v[:, head]
    x2 = x + attended @ state["self_attn.out_proj.weight"].T + state["self_attn.out_proj.bias"]
    hidden = layer_norm(x2, "norm2") @ state["linear1.weight"].T + state["linear1.bias"]
    hidden = F.gelu(torch.from_numpy(hidden)).numpy()
    expected = x2 + hidden @ state["linear2.weight"].T + state["linear2.bias"]
    with torch.no_grad():
        out = layer(torch.from_numpy(x)[None], torch.from_numpy(position))[0]
    np.testing.assert_allclose(out, expected, atol=1e-10)


def test_fusion_is_linear_in_w_and_nothing_at_zero():
    fuse = randomised(Fuse(8, 4).double())
    encoded, decoded = torch.randn(2, 1, 8, 4, 4, dtype=torch.float64).unbind()
    with torch.no_grad():
        none, half, full = (fuse(encoded, decoded, w) for w in (0.0, 0.5, 1.0))
        both = fuse.encode_enc(torch.cat([encoded, decoded], 1))
        expected = decoded + fuse.scale(both) * decoded + fuse.shift(both)
    assert torch.equal(none, decoded)
    torch.testing.assert_close(half, (none + full) / 2)
    torch.testing.assert_close(full, expected)


def test_adain_by_loops():
    rng = np.random.default_rng(0)
    content, style = rng.normal(2, 3, (2, 4, 5, 5)), rng.normal(-1, 0.5, (2, 4, 5, 5))
    out = adaptive_instance_norm(torch.from_numpy(content), torch.from_numpy(style)).numpy()
    for n in range(2):
        for c in range(4):
            x, y = content[n, c], style[n, c]
            std = [np.sqrt(z.var(ddof=1) + 1e-5) for z in (x, y)]
            np.testing.assert_allclose(out[n, c], (x - x.mean()) / std[0] * std[1] + y.mean(), atol=1e-12)


def test_forward_is_its_parts():
    """The official order: predicted codes, AdaIN, the generator, fusion after the tapped blocks."""
    network = tiny(torch.float64)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        images, logits, latents = network(x, 0.7, adain=True)
        features, h = {}, x
        for number, block in enumerate(network.encoder.blocks):
            h = block(h)
            features[number] = h
        torch.testing.assert_close(latents, h)
        assert len(logits.unique(dim=1)) > 1
        codes = network.quantize.embedding.weight[logits.argmax(2)].transpose(1, 2).reshape(2, 8, 8, 8)
        h = adaptive_instance_norm(codes, latents)
        for number, block in enumerate(network.generator.blocks):
            h = block(h)
            for size, fuse in network.fuse_convs_dict.items():
                if number == network.generator.taps[int(size)]:
                    h = fuse(features[network.encoder.taps[int(size)]], h, 0.7)
    torch.testing.assert_close(images, h)


def test_without_w_the_image_is_the_codes_alone():
    network = tiny()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        images, logits, _ = network(x, 0.0)
        expected = network.generator(network.quantize.look_up(logits.argmax(2)))
        fused = network(x, 1.0)[0]
    assert torch.equal(images, expected)
    assert not torch.allclose(images, fused, atol=1e-2)
