"""Arc2Face as a diffusers pipeline: identity vectors in, face photographs out.

Arc2Face (Paraperas Papantoniou et al., 2024) is Stable Diffusion 1.5 whose text encoder reads the fixed prompt
"photo of a id person" with the identity vector in the place of the token "id". The official code takes one identity
at a time; here a batch is a batch, and an image depends on its own vector and generator only.

    pipeline = Arc2FacePipeline.from_official(arc2face_folder, stable_diffusion_folder, dtype=torch.float16)
    images = pipeline.to("cuda")(vectors, generators)

Notation: n images, d dimensions of an identity vector, L tokens and W width of the conditioning (77 and 768), c x h x w
latents, H x W pixels.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from stages.store import StoreError

PROMPT = "photo of a id person"
PLACEHOLDER = "id"
VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema)(?=[.-])")  # in the name of a file of weights


def text_states(
    text_encoder: CLIPTextModel, tokens: torch.Tensor, placeholder: int, vectors: torch.Tensor | None = None
) -> torch.Tensor:
    """Run the text tower with identity vectors in the place of the placeholder token.

    A vector, padded with zeros on the right to the tower's width, replaces the token embedding before the position
    embedding is added. It enters by a hook on the token embedding, so the tower is an ordinary CLIPTextModel.

    Args:
        text_encoder: the tower.
        tokens: [n, L] int64; a row without the placeholder is encoded as text.
        placeholder: the number of the token that is replaced.
        vectors: [n, d] identity vectors, d <= W.

    Returns:
        [n, L, W], the last hidden state after the final layer norm.
    """
    if vectors is None:
        return text_encoder(input_ids=tokens).last_hidden_state
    embedding = text_encoder.get_input_embeddings()
    weight = embedding.weight
    assert isinstance(weight, torch.Tensor)
    padded = torch.nn.functional.pad(vectors.to(weight), (0, weight.shape[1] - vectors.shape[1]))
    here = (tokens == placeholder)[..., None]

    def replace(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where(here, padded[:, None], output)

    hook = embedding.register_forward_hook(replace)
    try:
        return text_encoder(input_ids=tokens).last_hidden_state
    finally:
        hook.remove()


def load_part(kind: Any, folder: Path, **options: Any) -> Any:
    """Load one network of a diffusers folder strictly, whichever way its weights are stored.

    Args:
        kind: the class, with diffusers' or transformers' `from_pretrained`.
        folder: of its config and weights: whole or sharded, safetensors or .bin, of a variant such as fp16.
        options: for `from_pretrained`.

    Raises:
        StoreError: no folder, no weights, or weights that are not all of this network's and no others.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder}: not found; it is a part of the generator")
    names = [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    variants = {VARIANT.search(name)[1] for name in names if VARIANT.search(name)}  # type: ignore[index]
    plain = [name for name in names if not VARIANT.search(name)]
    variant = None if plain or not variants else min(variants)
    try:
        report = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # they are named below
        part, found = kind.from_pretrained(folder, variant=variant, **report, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{folder}: holds no weights of a {kind.__name__} ({error})") from error
    faults = []
    for title, key in (
        ("lacks", "missing_keys"),
        ("has in addition", "unexpected_keys"),
        ("differ", "mismatched_keys"),
    ):
        odd = sorted(str(name) for name in found.get(key, ()) if not str(name).endswith("position_ids"))
        faults += [f"{title} {', '.join(odd[:3])}{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}"] if odd else []
    if faults:
        raise StoreError(f"{folder}: not the weights of this {kind.__name__}: {'; '.join(faults)}")
    return part


class Arc2FacePipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Generate faces of given identities.

    Args:
        vae: latents to pixels.
        text_encoder: the fine-tuned CLIP text tower (the official folder `encoder/`).
        tokenizer: its tokenizer; the prompt must hold the placeholder once.
        unet: the denoiser (the official folder `arc2face/`).
        scheduler: any diffusers scheduler.
    """

    vae: Any
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: Any
    scheduler: Any

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        width, needed = text_encoder.config.hidden_size, self.unet.config.cross_attention_dim
        if width != needed:
            raise ValueError(f"the text encoder is {width} wide and the UNet reads {needed}: parts of two models")
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self.placeholder = tokenizer.encode(PLACEHOLDER, add_special_tokens=False)[0]
        self.position = self._position()
        self._unconditional: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    @classmethod
    def from_official(cls, arc2face: Path | str, base: Path | str, **options: Any) -> Arc2FacePipeline:
        """Load the official weights.

        Args:
            arc2face: the folder with `arc2face/` (UNet) and `encoder/` (text tower), .safetensors or .bin.
            base: Stable Diffusion 1.5's folder, for its VAE, tokenizer and scheduler.
            options: for diffusers' `from_pretrained`, such as `dtype`.

        Raises:
            OSError: a folder or file is missing.
        """
        for folder in (Path(arc2face) / "arc2face", Path(arc2face) / "encoder", Path(base) / "vae"):
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder}: not found; it is a part of the official Arc2Face weights and base")
        unet = load_part(UNet2DConditionModel, Path(arc2face) / "arc2face", **options)
        text_encoder = load_part(CLIPTextModel, Path(arc2face) / "encoder", **options)
        return cls.from_parts(base, unet=unet, text_encoder=text_encoder, **options)

    @classmethod
    def from_parts(
        cls, folder: Path | str, unet: Any = None, text_encoder: Any = None, **options: Any
    ) -> Arc2FacePipeline:
        """Load a diffusers folder, every weight of it or none: `from_pretrained` draws what is missing at random.

        Args:
            folder: with `vae/`, `tokenizer/` and `scheduler/`, and `unet/` and `text_encoder/` where none are given.
            unet, text_encoder: parts from elsewhere.
            options: for diffusers' `from_pretrained`, such as `dtype`.

        Raises:
            StoreError: a part is missing, or its weights are another network's.
        """
        folder = Path(folder)
        for part in ("tokenizer", "scheduler"):
            if not (folder / part).is_dir():
                raise StoreError(f"{folder / part}: not found; it is a part of the generator")
        words = folder / "tokenizer"
        if not (words / "tokenizer.json").is_file() and not all(
            (words / n).is_file() for n in ("vocab.json", "merges.txt")
        ):
            raise StoreError(
                f"{words}: no tokenizer.json, and no vocab.json with merges.txt: a tokenizer has one or the other"
            )
        vae = load_part(AutoencoderKL, folder / "vae", **options)
        unet = unet or load_part(UNet2DConditionModel, folder / "unet", **options)
        text_encoder = text_encoder or load_part(CLIPTextModel, folder / "text_encoder", **options)
        return cls.from_pretrained(folder, vae=vae, unet=unet, text_encoder=text_encoder, **options)

    def use_scheduler(self, name: str, **options: Any) -> None:
        """Replace the scheduler by another of diffusers', with the same noise schedule."""
        self.scheduler = getattr(diffusers, name).from_config(self.scheduler.config, **options)

    def check_inputs(
        self,
        vectors: torch.Tensor,
        generators: list[torch.Generator],
        height: int,
        width: int,
        steps: int,
        shift: torch.Tensor | None = None,
        negative: torch.Tensor | None = None,
    ) -> None:
        """Refuse what cannot be generated.

        Raises:
            ValueError: with the argument, its value and what was expected.
        """
        limit = self.text_encoder.config.hidden_size
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] > limit:
            raise ValueError(f"vectors have the shape {list(vectors.shape)}: [n >= 1, d <= {limit}] was expected")
        norms = vectors.float().norm(dim=1)
        if not torch.all((norms - 1).abs() < 1e-2):
            raise ValueError(f"vectors have norms from {norms.min():.4g} to {norms.max():.4g}: 1 was expected")
        if negative is not None and negative.shape != (1, vectors.shape[1]):
            raise ValueError(f"the negative has the shape {list(negative.shape)}: [1, {vectors.shape[1]}] was expected")
        if len(generators) != len(vectors):
            raise ValueError(f"{len(generators)} generators for {len(vectors)} vectors: one each was expected")
        if height % self.vae_scale_factor or width % self.vae_scale_factor or min(height, width) < 1:
            raise ValueError(f"the size {height} x {width} px is no multiple of {self.vae_scale_factor} px")
        if steps < 1:
            raise ValueError(f"steps is {steps}: at least 1")
        if shift is not None and shift.shape != (self.length, limit):
            raise ValueError(f"the shift has the shape {list(shift.shape)}: [{self.length}, {limit}] was expected")

    @torch.no_grad()
    def encode_identity(self, vectors: torch.Tensor) -> torch.Tensor:
        """Conditioning of identities: vectors [n, d], unit norm -> [n, L, W].

        Rows before the placeholder are the same for every identity: the mask is causal.
        """
        tokens = self._tokens(PROMPT).expand(len(vectors), -1)
        return text_states(self.text_encoder, tokens, self.placeholder, vectors.to(self._execution_device))

    @torch.no_grad()
    def encode_unconditional(self) -> torch.Tensor:
        """Conditioning [1, L, W] of the empty prompt, by the same fine-tuned encoder; computed once."""
        key = (self._execution_device, self.text_encoder.dtype)
        if key not in self._unconditional:
            self._unconditional[key] = text_states(self.text_encoder, self._tokens(""), self.placeholder)
        return self._unconditional[key]

    def prepare_latents(self, generators: list[torch.Generator], height: int, width: int) -> torch.Tensor:
        """Draw each image's noise from its own generator: [n, c, h, w] float32, after `set_timesteps`."""
        size = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        shape = (len(generators), self.unet.config.in_channels, *size)
        noise = randn_tensor(shape, generators, self._execution_device, torch.float32)
        return noise * self.scheduler.init_noise_sigma

    @torch.no_grad()
    def denoise(
        self,
        latents: torch.Tensor,
        conditional: torch.Tensor,
        unconditional: torch.Tensor | None,
        guidance: float,
        generators: list[torch.Generator],
    ) -> torch.Tensor:
        """Run the scheduler's steps with classifier-free guidance.

        The scheduler works in float32 whatever the UNet's precision: its updates subtract near equals.

        Args:
            latents: [n, c, h, w] float32, of `prepare_latents`.
            conditional: [n, L, W].
            unconditional: [1, L, W], or none for no guidance.
            guidance: scale; 1 is none.
            generators: of the n images, for schedulers that draw noise.

        Returns:
            [n, c, h, w] float32.
        """
        condition = conditional
        if unconditional is not None:
            condition = torch.cat([unconditional.expand_as(conditional), conditional])
        condition = condition.to(self.unet.dtype)
        draws = "generator" in inspect.signature(self.scheduler.step).parameters
        options = {"generator": generators} if draws else {}
        for step in self.progress_bar(self.scheduler.timesteps):
            batch = latents if unconditional is None else torch.cat([latents, latents])
            batch = self.scheduler.scale_model_input(batch, step).to(self.unet.dtype)
            noise = self.unet(batch, step, encoder_hidden_states=condition, return_dict=False)[0].float()
            if unconditional is not None:
                away, towards = noise.chunk(2)
                noise = away + guidance * (towards - away)
            latents = self.scheduler.step(noise, step, latents, return_dict=False, **options)[0]
        return latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, slice_size: int) -> torch.Tensor:
        """Decode latents [n, c, h, w] to pixels [n, H, W, 3] uint8 RGB on the CPU, `slice_size` images at a time."""
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)
        images = []
        for part in latents.to(self.vae.dtype).split(slice_size):
            pixels = self.vae.decode(part, return_dict=False)[0].float()
            pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            images.append(pixels.permute(0, 2, 3, 1).cpu())
        return torch.cat(images)

    @torch.no_grad()
    def __call__(
        self,
        vectors: torch.Tensor,
        generators: list[torch.Generator],
        *,
        height: int | None = None,
        width: int | None = None,
        steps: int = 25,
        guidance: float = 3.0,
        shift: torch.Tensor | None = None,
        unconditional_shift: torch.Tensor | None = None,
        negative: torch.Tensor | None = None,
        decode_slice: int = 8,
    ) -> torch.Tensor:
        """Generate one image of each identity vector.

        Args:
            vectors: [n, d] float, unit norm.
            generators: n, one an image.
            height, width: px; default is the UNet's training size.
            steps: of the scheduler; the official 25.
            guidance: classifier-free guidance scale, the official 3; 1 (LCM) runs the UNet once a step.
            shift: [L, W], added to the conditioning of every identity (Digi2Real's domain gap, equation 2).
            unconditional_shift: [L, W], added to the unconditional branch.
            negative: [1, d], an identity for the unconditional branch, in the place of the empty prompt (NegFaceDiff).
            decode_slice: images that the VAE decodes at a time.

        Returns:
            [n, H, W, 3] uint8, RGB, on the CPU.

        Raises:
            ValueError: see `check_inputs`.
        """
        height = height or self.unet.config.sample_size * self.vae_scale_factor
        width = width or self.unet.config.sample_size * self.vae_scale_factor
        self.check_inputs(vectors, generators, height, width, steps, shift, negative)
        conditional = self.encode_identity(vectors)
        if shift is not None:
            conditional = conditional + shift.to(conditional)
        unconditional = None
        if guidance != 1:
            unconditional = self.encode_unconditional() if negative is None else self.encode_identity(negative)
            if unconditional_shift is not None:
                unconditional = unconditional + unconditional_shift.to(unconditional)
        self.scheduler.set_timesteps(steps, device=self._execution_device)
        latents = self.prepare_latents(generators, height, width)
        latents = self.denoise(latents, conditional, unconditional, guidance, generators)
        return self.decode(latents, decode_slice)

    def _tokens(self, prompt: str) -> torch.Tensor:
        tokens = self.tokenizer(prompt, padding="max_length", max_length=self.length, truncation=True)
        return torch.tensor([tokens.input_ids], device=self._execution_device)

    def _position(self) -> int:
        tokens = self.tokenizer(PROMPT, padding="max_length", max_length=self.length, truncation=True).input_ids
        if tokens.count(self.placeholder) != 1:
            raise ValueError(f"the tokenizer splits {PROMPT!r} so that {PLACEHOLDER!r} is not one token of its own")
        return tokens.index(self.placeholder)
