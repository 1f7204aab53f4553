"""The first half: from prompts to the codes that lay an image out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from glmkit.generation.condition_images import Source, encode_condition_images
from glmkit.generation.decoding import PriorTokenDecoder
from glmkit.generation.sampling import Sampling, uniforms
from glmkit.generation.sequence import PromptTokenizer, grids, prompt_positions
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

# progress(stage, done, total): stage is "codes" or "denoising", counted from 1 for every batch.
Progress = Callable[[str, int, int], None]


@lru_cache(maxsize=4)
def prompt_tokenizer(folder: Path) -> PromptTokenizer:
    """The tokenizer of a model folder."""
    return PromptTokenizer(folder / "processor")


@torch.inference_mode()
def prior_tokens(
    hybrid: HybridModel,
    requests: Sequence[Request],
    sources: Sequence[Sequence[Source]] | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """The large grid of codes h w of every request of one batch (same size and sampling; all edits or none)."""
    first = requests[0]
    sources = encode_condition_images(hybrid, requests) if sources is None else sources
    hybrid.unload_except("autoregressive")
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
    writer = prior_token_decoder(hybrid)
    written = writer.write(prompts, positions, order, numbers, sampling_of(first), of_stage(progress, "codes"))
    rows, columns = shape.large
    return [row[-rows * columns :].view(rows, columns) for row in written]


def prior_token_decoder(hybrid: HybridModel) -> PriorTokenDecoder:
    """The writer of the model's codes, with its buffers and graphs while the weights stay as they are."""
    writer = hybrid.inference_cache.get("prior_token_decoder")
    if writer is None or writer.model is not hybrid.autoregressive:
        writer = PriorTokenDecoder(hybrid.autoregressive, hybrid.compiled, recorded=None if hybrid.optimized else False)
        hybrid.inference_cache["prior_token_decoder"] = writer
    return writer


def sampling_of(request: Request) -> Sampling:
    """How the request's codes are drawn; UserError for values out of range."""
    return Sampling(request.temperature, request.top_p, request.top_k)


def of_stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    """Progress of one stage only."""
    return None if progress is None else lambda done, total: progress(stage, done, total)
