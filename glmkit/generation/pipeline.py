"""From requests to pictures: prompt -> codes (autoregressive) -> latents (diffusion decoder) -> pixels (VAE).

One request is one prompt, one seed, one size, one picture: its random numbers come from its own seed, drawn on the CPU,
and padding is masked, so the same request gives the same picture alone and in any batch. Nothing here touches the
global random state. The rules of conditioning are those of `GlmImagePipeline` (diffusers 0.42).

Shapes: B requests, C latent channels, h w rows and columns of codes (32 pixels each), N = 2h 2w decoder tokens,
H W rows and columns of latents (8 pixels each).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glmkit.errors import UserError
from glmkit.files import read_json
from glmkit.generation import flow
from glmkit.generation.pictures import read_picture
from glmkit.generation.sampler import Sampling, uniforms
from glmkit.generation.sequence import TOKEN_PIXELS, PromptTokenizer, grids, prompt_positions
from glmkit.generation.writer import CodeWriter
from glmkit.models.decoder import SourceCache
from glmkit.models.devices import dtype_for as dtype_for
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq import halved_size, prepare
from glmkit.records import Request

MAX_SOURCES = 3
# Both rows of guidance go through the decoder together while the batch has at most this many image tokens.
PAIRED_TOKENS = 1024

# progress(stage, done, total): stage is "codes" or "denoising", counted from 1 for every batch.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """A source picture, encoded once: its codes h w for both stages, its normalised latents 1 C H W for the decoder."""

    codes: Tensor
    latents: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels at which the decoder sees it."""
        return self.codes.shape[0] * TOKEN_PIXELS, self.codes.shape[1] * TOKEN_PIXELS


@dataclass(frozen=True)
class Outcome:
    """What became of a request: a picture, or the reason why there is none. `seconds` is its share of its batch."""

    request: Request
    image: Image.Image | None
    error: Exception | None
    seconds: float


@lru_cache(maxsize=4)
def prompt_tokenizer(folder: Path) -> PromptTokenizer:
    """The tokenizer of a model folder."""
    return PromptTokenizer(folder / "processor")


@lru_cache(maxsize=4)
def flow_config(folder: Path) -> flow.FlowConfig:
    """The noise schedule of a model folder."""
    return flow.FlowConfig.from_dict(read_json(folder / "scheduler" / "scheduler_config.json"))


def check(request: Request) -> None:
    """UserError for a request that no model can draw. Source pictures are not opened here."""
    if not request.prompt.strip():
        raise UserError(
            "the prompt is empty", fix="say what to draw, for example \"a red poster with the word 'HELLO'\""
        )
    grids(request.height, request.width)
    if not 1 <= request.steps <= 1000:
        raise UserError("the number of steps must be 1 to 1000", found=request.steps, fix="--steps 30")
    if not (math.isfinite(request.guidance) and request.guidance >= 0):
        raise UserError("guidance must be a number of at least 0", found=request.guidance, fix="--guidance 1.5")
    if not 0 <= request.seed < 2**63:
        raise UserError("a seed must be a whole number from 0 to 2^63 - 1", found=request.seed, fix="--seed 0")
    if len(request.sources) > MAX_SOURCES:
        raise UserError(f"an edit takes 1 to {MAX_SOURCES} source pictures", found=f"{len(request.sources)}")
    _sampling(request)


def generate(
    hybrid: HybridModel, requests: Sequence[Request], batch_size: int = 1, progress: Progress | None = None
) -> Iterator[tuple[Request, Image.Image]]:
    """Draw every request; the first one that fails raises. Results come grouped by size, not in the given order."""
    for outcome in attempt(hybrid, requests, batch_size, progress):
        if outcome.image is None:
            raise outcome.error or AssertionError("no picture and no error")
        yield outcome.request, outcome.image


def attempt(
    hybrid: HybridModel, requests: Sequence[Request], batch_size: int = 1, progress: Progress | None = None
) -> Iterator[Outcome]:
    """Draw every request, in batches of one size and setting; one that fails becomes an outcome with its error.

    A batch that fails is tried again one by one, so that only the request at fault is lost.
    """
    for batch in _batches(requests, batch_size):
        started = time.perf_counter()
        try:
            images = draw(hybrid, batch, progress)
        except (UserError, RuntimeError, ValueError, OSError) as error:
            if len(batch) > 1:
                yield from attempt(hybrid, batch, 1, progress)
            else:
                yield Outcome(batch[0], None, error, time.perf_counter() - started)
            continue
        seconds = (time.perf_counter() - started) / len(batch)
        yield from (Outcome(request, image, None, seconds) for request, image in zip(batch, images, strict=True))


def _batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[Request]]:
    groups: dict[tuple[object, ...], list[Request]] = {}
    for request in requests:
        settings = (request.height, request.width, bool(request.sources), request.steps, request.guidance)
        groups.setdefault((*settings, request.temperature, request.top_p, request.top_k), []).append(request)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


@torch.inference_mode()
def draw(hybrid: HybridModel, requests: Sequence[Request], progress: Progress | None = None) -> list[Image.Image]:
    """The pictures of one batch, whose requests share size, steps, guidance and sampling."""
    for request in requests:
        check(request)
    sources = encode_sources(hybrid, requests)
    priors = prior_tokens(hybrid, requests, sources, progress)
    return decode_prior(hybrid, requests, priors, sources=sources, progress=progress)


@torch.inference_mode()
def encode_sources(hybrid: HybridModel, requests: Sequence[Request]) -> list[list[Source]]:
    """The source pictures of every request, read and encoded; UserError for one that cannot be used."""
    return [[encode_source(hybrid, read_picture(path)) for path in request.sources] for request in requests]


@torch.inference_mode()
def encode_source(hybrid: HybridModel, image: Image.Image) -> Source:
    """Codes of the halved picture, and latents at twice that size, so that both grids agree whatever its size.

    The published pipeline encodes the latents at the picture's own size, which is the same when its sides are
    multiples of 32 within the processor's bounds, and fails otherwise.
    """
    settings = hybrid.source_settings
    height, width = halved_size(image.height, image.width, settings.min_pixels, settings.max_pixels)
    halved = prepare(image, (height, width), settings.mean, settings.std)
    codes = hybrid.semantic_vq.encode(halved[None].to(hybrid.device, hybrid.dtype))[0]
    if image.size != (2 * width, 2 * height):
        image = image.resize((2 * width, 2 * height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return Source(codes, hybrid.vae.encode(pixels.to(hybrid.device, hybrid.dtype)))


@torch.inference_mode()
def prior_tokens(
    hybrid: HybridModel,
    requests: Sequence[Request],
    sources: Sequence[Sequence[Source]] | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """The large grid of codes h w of every request of one batch (same size and sampling; all edits or none)."""
    first = requests[0]
    sources = encode_sources(hybrid, requests) if sources is None else sources
    tokenizer, model = prompt_tokenizer(hybrid.folder), hybrid.autoregressive
    prompts, positions = [], []
    for request, own in zip(requests, sources, strict=True):
        if own:
            ids = tokenizer.edit(request.prompt, [source.codes for source in own], request.height, request.width)
        else:
            ids = tokenizer.text_to_image(request.prompt, request.height, request.width)
        source_grids = [(source.codes.shape[0], source.codes.shape[1]) for source in own]
        prompts.append(ids)
        positions.append(prompt_positions(ids, source_grids, model.config.image_start_token_id))
    shape = grids(first.height, first.width)
    order = [shape.large] if sources[0] else [shape.preview, shape.large]
    numbers = torch.stack([uniforms(request.seed, sum(h * w for h, w in order)) for request in requests])
    writer = code_writer(hybrid)
    written = writer.write(prompts, positions, order, numbers, _sampling(first), _stage(progress, "codes"))
    rows, columns = shape.large
    return [row[-rows * columns :].view(rows, columns) for row in written]


def code_writer(hybrid: HybridModel) -> CodeWriter:
    """The writer of the model's codes, with its buffers and graphs while the weights stay as they are."""
    writer = hybrid.kept.get("code_writer")
    if writer is None or writer.model is not hybrid.autoregressive:
        writer = CodeWriter(hybrid.autoregressive, hybrid.compiled, recorded=None if hybrid.settled else False)
        hybrid.kept["code_writer"] = writer
    return writer


def decode_prior(
    hybrid: HybridModel,
    requests: Sequence[Request],
    priors: Sequence[Tensor],
    noise: Tensor | None = None,
    sources: Sequence[Sequence[Source]] | None = None,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """Pictures of one batch from its codes h w; `noise` B C H W replaces that of the requests' seeds."""
    latents = denoise_prior(hybrid, requests, priors, noise, sources, progress)
    # One at a time: the decoder's activations at full size are the largest of all, and nothing is gained by batching.
    return [to_image(decode_latents(hybrid, row[None])[0]) for row in latents]


@torch.inference_mode()
def decode_latents(hybrid: HybridModel, latents: Tensor) -> Tensor:
    """Pixels B 3 8H 8W, about [-1, 1], of normalised latents B C H W."""
    return hybrid.vae.decode(latents).float()


def to_image(pixels: Tensor) -> Image.Image:
    """A picture from pixels 3 H W in [-1, 1]; values outside are clamped."""
    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


@torch.inference_mode()
def denoise_prior(
    hybrid: HybridModel,
    requests: Sequence[Request],
    priors: Sequence[Tensor],
    noise: Tensor | None = None,
    sources: Sequence[Sequence[Source]] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Normalised latents B C H W, float32, of one batch from its codes."""
    first = requests[0]
    sources = encode_sources(hybrid, requests) if sources is None else sources
    if noise is None:
        noise = torch.cat([initial_noise(hybrid, request) for request in requests])
    plan = flow.schedule(first.height, first.width, first.steps, flow_config(hybrid.folder))
    velocity = _velocity(hybrid, requests, priors, sources)
    return flow.denoise(velocity, noise.to(hybrid.device), plan, _stage(progress, "denoising"))


def initial_noise(hybrid: HybridModel, request: Request) -> Tensor:
    """Normal noise 1 C H W, float32 on the CPU, from the request's own generator."""
    shape = (1, hybrid.decoder.config.in_channels, request.height // 8, request.width // 8)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(request.seed))


def upsampled(codes: Tensor) -> Tensor:
    """Codes ... h w -> one code for each decoder token, ... N = 2h 2w, row by row."""
    return codes.repeat_interleave(2, -2).repeat_interleave(2, -1).flatten(-2)


@dataclass(frozen=True)
class _Conditions:
    """Everything that the decoder is told besides the latents; B rows."""

    glyph: Tensor
    glyph_mask: Tensor | None
    prior: Tensor
    prior_keep: Tensor
    target_size: Tensor
    sources: SourceCache | None

    @classmethod
    def of(
        cls,
        hybrid: HybridModel,
        texts: list[str],
        prior: Tensor,
        keep: list[bool],
        size: tuple[int, int],
        sources: list[SourceCache | None],
    ) -> _Conditions:
        glyph, mask = hybrid.glyph(texts)
        rows = len(texts)
        return cls(
            glyph,
            None if bool(mask.all()) else mask,
            prior,
            torch.tensor(keep, device=prior.device),
            torch.tensor([size], dtype=torch.float32, device=prior.device).expand(rows, 2),
            SourceCache.batch(sources),
        )

    def velocity(self, hybrid: HybridModel, latents: Tensor, timestep: Tensor) -> Tensor:
        return hybrid.decoder(
            latents.to(hybrid.dtype),
            self.glyph,
            self.glyph_mask,
            self.prior,
            self.prior_keep,
            timestep,
            self.target_size,
            torch.zeros_like(self.target_size),
            self.sources,
        ).float()


def _velocity(
    hybrid: HybridModel, requests: Sequence[Request], priors: Sequence[Tensor], sources: Sequence[Sequence[Source]]
) -> Callable[[Tensor, Tensor], Tensor]:
    """The guided velocity: unconditional + guidance (conditional - unconditional).

    Unconditional means: no prior, an empty glyph text, no sources. At guidance 1 or less only the conditional one runs.
    """
    guidance, rows = requests[0].guidance, len(requests)
    size = (requests[0].height, requests[0].width)
    prior = torch.stack([upsampled(codes) for codes in priors]).to(hybrid.device)
    caches = [_write(hybrid, own) for own in sources]
    texts, absent = [request.prompt for request in requests], [None] * rows
    if guidance <= 1:
        alone = _Conditions.of(hybrid, texts, prior, [True] * rows, size, caches)
        return lambda latents, timestep: alone.velocity(hybrid, latents, timestep)
    if prior.numel() <= PAIRED_TOKENS:
        both = _Conditions.of(
            hybrid,
            texts + [""] * rows,
            torch.cat([prior, prior]),
            [True] * rows + [False] * rows,
            size,
            [*caches, *absent],
        )

        def paired(latents: Tensor, timestep: Tensor) -> Tensor:
            twice = both.velocity(hybrid, torch.cat([latents, latents]), torch.cat([timestep, timestep]))
            return twice[rows:] + guidance * (twice[:rows] - twice[rows:])

        return paired
    with_all = _Conditions.of(hybrid, texts, prior, [True] * rows, size, caches)
    without = _Conditions.of(hybrid, [""] * rows, prior, [False] * rows, size, list(absent))

    def one_after_the_other(latents: Tensor, timestep: Tensor) -> Tensor:
        unguided = without.velocity(hybrid, latents, timestep)
        return unguided + guidance * (with_all.velocity(hybrid, latents, timestep) - unguided)

    return one_after_the_other


def _write(hybrid: HybridModel, sources: Sequence[Source]) -> SourceCache | None:
    if not sources:
        return None
    return hybrid.decoder.write_sources(
        [(source.latents.to(hybrid.dtype), upsampled(source.codes)[None], source.size) for source in sources]
    )


def _sampling(request: Request) -> Sampling:
    return Sampling(request.temperature, request.top_p, request.top_k)


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(stage, done, total)
