"""CodeFormer's networks, under their official state_dict names (sczhou/CodeFormer, `basicsr/archs`).

A VQGAN (`vqgan_arch.py`) learns a codebook of face parts: encoder, nearest codes, generator. CodeFormer
(`codeformer_arch.py`, Zhou et al. 2022) reads a degraded face with the same encoder, but a transformer says which codes
it shows, so that the generator paints a clean face; feature fusion, weighted by w, brings the input's detail back.

All images are [n, 3, s, s] in [-1, 1]. Notation: n images, s pixels of a side, t x t latent positions, e dimensions of
a code, K codes, d width of the transformer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.training.tensors import read_tensors
from stages.transfer.checkpoint import entry, load_strictly

OFFICIAL = "sczhou/CodeFormer's release v0.1.0 has it, under the S-Lab licence 1.0: not for commercial use"


class ResBlock(nn.Module):
    """Pre-activation residual block: [n, c, h, w] -> [n, width, h, w]."""

    def __init__(self, channels: int, width: int, groups: int = 32) -> None:
        super().__init__()
        self.norm1 = _norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm2 = _norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if channels != width:
            self.conv_out = nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus residual."""
        residual = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        return residual + (self.conv_out(x) if hasattr(self, "conv_out") else x)


class AttnBlock(nn.Module):
    """One head of attention over all positions: [n, c, h, w] -> the same."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Input plus attention."""
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))
        weights = (q.transpose(1, 2) @ k * q.shape[1] ** -0.5).softmax(2)  # [n, query, key]
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))


class Downsample(nn.Module):
    """Half the size by a strided convolution, padded at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h/2, w/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size: nearest, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, 2h, 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Blocks(nn.Module):
    """A chain whose intermediate outputs can be taken.

    `taps` says after which block the feature fusion reads or writes, by image size.
    """

    blocks: nn.ModuleList
    taps: dict[int, int]

    def forward(self, x: Tensor) -> Tensor:
        """Through all blocks."""
        for block in self.blocks:
            x = block(x)
        return x


class Encoder(Blocks):
    """[n, 3, s, s] -> latents [n, e, t, t]. Taps: after a size's last residual block, before its attention.

    Args:
        size: s, px.
        width: channels at full size.
        multipliers: of the width, a size each, from s downwards; t is s / 2^(their number - 1).
        depth: residual blocks a size.
        attention: sizes with attention.
        code: e.
        groups: of the group norms.
    """

    def __init__(
        self,
        size: int,
        width: int,
        multipliers: Sequence[int],
        depth: int,
        attention: Sequence[int],
        code: int,
        groups: int,
    ) -> None:
        super().__init__()
        channels = width
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        self.taps = {}
        for level, multiplier in enumerate(multipliers):
            if level:
                blocks.append(Downsample(channels))
                size //= 2
            for _ in range(depth):
                blocks.append(ResBlock(channels, width * multiplier, groups))
                channels = width * multiplier
                self.taps[size] = len(blocks) - 1
                if size in attention:
                    blocks.append(AttnBlock(channels, groups))
        blocks += _middle(channels, groups)
        blocks += [_norm(channels, groups), nn.Conv2d(channels, code, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)


class Generator(Blocks):
    """Quantised latents [n, e, t, t] -> [n, 3, s, s]. Taps: after a size's first residual block, at t its last.

    The arguments are the encoder's.
    """

    def __init__(
        self,
        size: int,
        width: int,
        multipliers: Sequence[int],
        depth: int,
        attention: Sequence[int],
        code: int,
        groups: int,
    ) -> None:
        super().__init__()
        channels = width * multipliers[-1]
        size //= 2 ** (len(multipliers) - 1)
        blocks: list[nn.Module] = [nn.Conv2d(code, channels, 3, padding=1), *_middle(channels, groups)]
        self.taps = {}
        for level in reversed(range(len(multipliers))):
            lowest = level == len(multipliers) - 1
            if not lowest:
                blocks.append(Upsample(channels))
                size *= 2
            for number in range(depth):
                blocks.append(ResBlock(channels, width * multipliers[level], groups))
                channels = width * multipliers[level]
                if lowest or not number:
                    self.taps[size] = len(blocks) - 1
                if size in attention:
                    blocks.append(AttnBlock(channels, groups))
        blocks += [_norm(channels, groups), nn.Conv2d(channels, 3, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)


class VectorQuantizer(nn.Module):
    """The codebook [K, e].

    Args:
        codes: K.
        dimension: e.
        beta: weight of the loss that moves the codes. (The official code weights the codes' term, not the encoder's.)
    """

    def __init__(self, codes: int, dimension: int, beta: float = 0.25) -> None:
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(codes, dimension)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def nearest(self, latents: Tensor) -> Tensor:
        """Numbers [n, t * t] of the codes nearest to latents [n, e, t, t], row by row."""
        book = self.embedding.weight
        rows = latents.flatten(2).transpose(1, 2).to(book.dtype)
        with torch.autocast(rows.device.type, enabled=False):  # the nearest of many close ones needs all digits
            distances = (rows**2).sum(2, keepdim=True) + (book**2).sum(1) - 2 * rows @ book.t()
        return distances.argmin(2)

    def look_up(self, numbers: Tensor) -> Tensor:
        """Numbers [n, t * t] -> codes [n, e, t, t]."""
        side = round(numbers.shape[1] ** 0.5)
        return self.embedding(numbers).transpose(1, 2).unflatten(2, (side, side))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise; the gradient of the output goes straight through to the latents.

        Returns:
            Codes [n, e, t, t], the codebook loss, numbers [n, t * t].
        """
        numbers = self.nearest(latents)
        codes = self.look_up(numbers)
        loss = F.mse_loss(latents, codes.detach()) + self.beta * F.mse_loss(codes, latents.detach())
        return latents + (codes - latents).detach(), loss, numbers


class VQGAN(nn.Module):
    """The autoencoder of stage 1 (official `VQAutoEncoder`, `vqgan_code1024.pth`).

    Args:
        size: s, px; officially 512.
        width: channels at full size; 64.
        multipliers: of the width, from full size downwards; six, so that t is 16.
        depth: residual blocks a size.
        attention: sizes with attention, px.
        codes: K.
        code: e.
        groups: of the group norms.
        beta: see `VectorQuantizer`.
    """

    def __init__(
        self,
        size: int = 512,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 4, 4, 8),
        depth: int = 2,
        attention: Sequence[int] = (16,),
        codes: int = 1024,
        code: int = 256,
        groups: int = 32,
        beta: float = 0.25,
    ) -> None:
        super().__init__()
        self.size = size
        self.encoder = Encoder(size, width, multipliers, depth, attention, code, groups)
        self.quantize = VectorQuantizer(codes, code, beta)
        self.generator = Generator(size, width, multipliers, depth, attention, code, groups)

    def forward(self, x: Tensor) -> Any:
        """Images -> reconstruction [n, 3, s, s], codebook loss, numbers [n, t * t]."""
        codes, loss, numbers = self.quantize(self.encoder(x))
        return self.generator(codes), loss, numbers


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and GELU MLP; the position is added to queries and keys only (`TransformerSALayer`)."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1 = nn.Linear(width, mlp)
        self.linear2 = nn.Linear(mlp, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """[n, t * t, d] and [t * t, d] -> [n, t * t, d]."""
        h = self.norm1(x)
        x = x + self.self_attn(h + position, h + position, h, need_weights=False)[0]
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class Fuse(nn.Module):
    """Controllable feature fusion (`Fuse_sft_block`): decoder features + w (decoder features * scale + shift)."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels, groups)
        self.scale, self.shift = (
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(2)
        )

    def forward(self, encoded: Tensor, decoded: Tensor, w: float) -> Tensor:
        """Features of the encoder and of the generator, [n, c, h, w] each -> the same."""
        both = self.encode_enc(torch.cat([encoded, decoded], 1))
        return decoded + w * (decoded * self.scale(both) + self.shift(both))


class CodeFormer(VQGAN):
    """The restorer of stages 2 and 3 (`codeformer_stage2.pth`, `codeformer.pth`).

    Args:
        width_transformer: d; officially 512.
        heads: of attention, 8.
        layers: 9.
        connect: image sizes with feature fusion, px; (32, 64, 128, 256).
        vqgan: arguments of `VQGAN`.
    """

    def __init__(
        self,
        width_transformer: int = 512,
        heads: int = 8,
        layers: int = 9,
        connect: Sequence[int] = (32, 64, 128, 256),
        **vqgan: Any,
    ) -> None:
        super().__init__(**vqgan)
        for parameter in [*self.quantize.parameters(), *self.generator.parameters()]:
            parameter.requires_grad = False  # officially fixed after stage 1
        codes, code = self.quantize.embedding.weight.shape
        positions = min(self.encoder.taps) ** 2
        self.position_emb = nn.Parameter(torch.zeros(positions, width_transformer))
        self.feat_emb = nn.Linear(code, width_transformer)
        self.ft_layers = nn.ModuleList(
            TransformerLayer(width_transformer, heads, 2 * width_transformer) for _ in range(layers)
        )
        self.idx_pred_layer = nn.Sequential(
            nn.LayerNorm(width_transformer), nn.Linear(width_transformer, codes, bias=False)
        )
        fuses = {}
        for size in connect:
            block = self.encoder.blocks[self.encoder.taps[size]]
            assert isinstance(block, ResBlock)
            fuses[str(size)] = Fuse(block.conv2.out_channels, block.norm1.num_groups)
        self.fuse_convs_dict = nn.ModuleDict(fuses)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Which codes an image shows.

        Returns:
            Logits [n, t * t, K], latents [n, e, t, t], encoder features by size.
        """
        wanted = {self.encoder.taps[int(size)]: int(size) for size in self.fuse_convs_dict}
        features = {}
        for number, block in enumerate(self.encoder.blocks):
            x = block(x)
            if number in wanted:
                features[wanted[number]] = x
        h = self.feat_emb(x.flatten(2).transpose(1, 2))
        for layer in self.ft_layers:
            h = layer(h, self.position_emb)
        return self.idx_pred_layer(h), x, features

    def generate(self, codes: Tensor, features: dict[int, Tensor], w: float) -> Tensor:
        """Codes [n, e, t, t] -> images; encoder features are fused where w > 0."""
        wanted = {self.generator.taps[int(size)]: size for size in self.fuse_convs_dict} if w > 0 else {}
        x = codes
        for number, block in enumerate(self.generator.blocks):
            x = block(x)
            if number in wanted:
                size = wanted[number]
                x = self.fuse_convs_dict[size](features[int(size)].detach(), x, w)
        return x

    def forward(self, x: Tensor, w: float = 0.0, adain: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Restore.

        Args:
            x: [n, 3, s, s] in [-1, 1].
            w: fidelity, 0 (the codes alone) to 1 (the input's detail).
            adain: give the codes the channel statistics of the input's latents.

        Returns:
            Images [n, 3, s, s], logits [n, t * t, K], latents [n, e, t, t].
        """
        logits, latents, features = self.predict(x)
        numbers = logits.softmax(2).topk(1, 2).indices[..., 0]
        codes = self.quantize.look_up(numbers).detach()
        if adain:
            codes = adaptive_instance_norm(codes, latents)
        return self.generate(codes, features, w), logits, latents


class Discriminator(nn.Module):
    """The patch discriminator of stages 1 and 3 (`VQGANDiscriminator`): [n, 3, s, s] -> patch logits [n, 1, p, p]."""

    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        channels = width
        main: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for number in range(1, layers + 1):
            wider = width * min(2**number, 8)
            stride = 2 if number < layers else 1
            main += [nn.Conv2d(channels, wider, 4, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.LeakyReLU(0.2)]
            channels = wider
        self.main = nn.Sequential(*main, nn.Conv2d(channels, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Patch logits."""
        return self.main(x)


def adaptive_instance_norm(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Content with the style's mean and (unbiased) deviation in each channel: [n, c, h, w] both."""

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True) + eps).sqrt()

    (mean, std), (style_mean, style_std) = statistics(content), statistics(style)
    return (content - mean) / std * style_std + style_mean


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _middle(channels: int, groups: int) -> list[nn.Module]:
    return [ResBlock(channels, channels, groups), AttnBlock(channels, groups), ResBlock(channels, channels, groups)]


def load_codeformer(path: Path, **sizes: Any) -> CodeFormer:
    """Read `codeformer.pth` (its `params_ema`) or `codeformer_stage2.pth`, strictly, in evaluation mode on the CPU.

    The official weights are under the S-Lab licence 1.0: not for commercial use.

    Args:
        path: the file.
        sizes: arguments of `CodeFormer`; by default those that the file states under `sizes`, and else the official.

    Raises:
        StoreError: not that file; names what is missing or unexpected.
    """
    content = read_tensors(path, official=OFFICIAL)
    state = entry(path, content, "params_ema", "params")
    network = CodeFormer(**(content.get("sizes", {}) | sizes))
    load_strictly(network, state, path)
    return network.eval()


def save_codeformer(path: Path, network: CodeFormer, **sizes: Any) -> None:
    """Write weights as `load_codeformer` reads them, in half precision, with their sizes."""
    state = {name: value.half() for name, value in network.state_dict().items()}
    torch.save({"params_ema": state, "sizes": sizes}, path)


def sizes_in(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its sizes, as arguments of `CodeFormer`; the official ones say nothing."""
    content = read_tensors(path, official=OFFICIAL)
    return dict(content.get("sizes", {})) if isinstance(content, Mapping) else {}


def load_vqgan(path: Path, **sizes: Any) -> VQGAN:
    """Read `vqgan_code1024.pth` strictly, in evaluation mode on the CPU; otherwise as `load_codeformer`."""
    state = entry(path, read_tensors(path, official=OFFICIAL), "params_ema", "params")
    network = VQGAN(**sizes)
    load_strictly(network, state, path)
    return network.eval()
