"""The first half: from prompts to the prior tokens that lay an image out.

Shapes: h w rows and columns of prior tokens (32 pixels each), N prior tokens of an image in the order of generation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from glmkit.generation.condition_images import ConditionImage, encode_condition_images
from glmkit.generation.decoding import PriorTokenDecoder
from glmkit.generation.requests import sampling_of
from glmkit.generation.sampling import uniforms
from glmkit.generation.sequence import PromptTokenizer, grids, prompt_positions
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

# progress(stage, done, total): stage is PRIOR_TOKENS or DENOISING, counted from 1 for every batch.
Progress = Callable[[str, int, int], None]
PRIOR_TOKENS, DENOISING = "prior tokens", "denoising"


def prompt_tokenizer(folder: Path) -> PromptTokenizer:
    """Return the tokenizer of a model folder."""
    return _tokenizer((folder / "processor").resolve())  # a relative path may be another folder's tomorrow


_tokenizer = lru_cache(maxsize=4)(PromptTokenizer)


def generate_prior_tokens(
    hybrid: HybridModel,
    requests: Sequence[Request],
    condition_images: Sequence[Sequence[ConditionImage]] | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Generate the large grid of prior tokens, int64 h w, of every request of one batch: all that the decoder reads.

    The requests share size and sampling, and all are edits or none. `condition_images` are encoded here unless given.
    """
    return [of_request[-1] for of_request in generate_grids(hybrid, requests, condition_images, progress)]


@torch.inference_mode()
def generate_grids(
    hybrid: HybridModel,
    requests: Sequence[Request],
    condition_images: Sequence[Sequence[ConditionImage]] | None = None,
    progress: Progress | None = None,
    recorded: bool = False,
) -> list[list[Tensor]]:
    """Generate the grids of prior tokens, int64 h w, of every request: preview and large grid, of an edit the latter.

    `recorded`: on a GPU, steps are recorded for this call alone, for weights that change behind it and stay meanwhile.
    See `generate_prior_tokens`.
    """
    first = requests[0]
    if condition_images is None:
        condition_images = encode_condition_images(hybrid, requests)
    hybrid.unload_except("autoregressive")
    # 1. Tokenise the prompts, with the tokens of the condition images in their places.
    tokenizer, model = prompt_tokenizer(hybrid.folder), hybrid.autoregressive
    prompts, positions = [], []
    for request, images in zip(requests, condition_images, strict=True):
        if images:
            token_ids = [image.token_ids for image in images]
            prompt = tokenizer.edit(request.prompt, token_ids, request.height, request.width)
        else:
            prompt = tokenizer.text_to_image(request.prompt, request.height, request.width)
        image_grids = [(image.token_ids.shape[0], image.token_ids.shape[1]) for image in images]
        prompts.append(prompt)
        positions.append(prompt_positions(prompt, image_grids, model.config.image_start_token_id))
    # 2. Generate a preview and the large grid, of an edit the large grid alone.
    shape = grids(first.height, first.width)
    order = [shape.large] if condition_images[0] else [shape.preview, shape.large]
    uniforms_BN = torch.stack([uniforms(request.seed, sum(h * w for h, w in order)) for request in requests])
    on_gpu = hybrid.device.type == "cuda"
    decoder = PriorTokenDecoder(model) if recorded and on_gpu else prior_token_decoder(hybrid)
    ids_BN = decoder.generate(
        prompts, positions, order, uniforms_BN, sampling_of(first), progress_of(progress, PRIOR_TOKENS)
    )
    # 3. Cut the sequences into grids.
    counts = [h * w for h, w in order]
    return [[ids.view(grid) for ids, grid in zip(ids_N.split(counts), order, strict=True)] for ids_N in ids_BN]


def prior_token_decoder(hybrid: HybridModel) -> PriorTokenDecoder:
    """Return the decoder of the model's prior tokens, with its buffers and graphs, while the weights stay the same."""
    decoder: PriorTokenDecoder | None = hybrid.inference_cache.get("prior_token_decoder")
    if decoder is None or decoder.model is not hybrid.autoregressive:
        recorded = None if hybrid.optimized else False
        decoder = PriorTokenDecoder(hybrid.autoregressive, hybrid.compiled, recorded)
        hybrid.inference_cache["prior_token_decoder"] = decoder
    return decoder


def progress_of(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    """Return the progress of one stage only."""
    return None if progress is None else lambda done, total: progress(stage, done, total)
