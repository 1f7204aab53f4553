"""Prior tokens as the autoregressive model samples them, for a decoder that learns to forgive its mistakes.

A decoder that learns from the tokens of true images trusts them, and copies what the autoregressive model misspells.
Sampled tokens stand for the same image: each is sampled behind the true tokens before it (teacher forcing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glmkit.generation.sampling import Sampling, sample, uniforms
from glmkit.models.checkpoint import defaults
from glmkit.models.hybrid import HybridModel
from glmkit.training.data import ImageDataset
from glmkit.training.features import CachedFeatures, FeatureCache, made_from_text, precompute
from glmkit.training.objectives.token_batches import TokenSequences


def mixed(prior: Tensor, other: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return prior tokens B h w, those of a random `share` of the images from `other`."""
    chosen = torch.rand(len(prior), 1, 1, generator=generator, device=prior.device) < share
    return torch.where(chosen, other.long(), prior)


def precompute_resampled_tokens(
    hybrid: HybridModel, images: ImageDataset, cache: FeatureCache, large: CachedFeatures
) -> CachedFeatures:
    """Compute N h w int16: the large grid of every image that is made from a text or from other images, resampled.

    `large` are the true tokens. An image has the same numbers on every machine and in every batch (its index is the
    seed), and is sampled as the model generates by default.
    """
    sequences = TokenSequences(images, hybrid, cache, large=large)
    from_text = made_from_text(images)
    from_images = [index in images.condition_images for index in range(len(images.sizes))]
    resampled = precompute(images, _resample(hybrid, sequences), cache, "resampled tokens", only=from_text)
    if any(from_images):
        resampled.include(precompute(images, _resample(hybrid, sequences), cache, "resampled edits", only=from_images))
    return resampled


def _resample(hybrid: HybridModel, sequences: TokenSequences) -> Callable[[list[int]], Tensor]:
    sampling = Sampling(**defaults.load(hybrid.folder).sampling)

    def encode(indices: Sequence[int]) -> Tensor:
        true = sequences.large[indices]
        batch = sequences.padded(indices)
        logits = batch.logits(hybrid.autoregressive)
        start = batch.lengths.get("preview", 0)
        logits_BNV = logits[:, start : start + true[0].numel()]
        numbers = torch.stack([uniforms(index, true[0].numel()) for index in indices]).to(logits.device)
        return sample(logits_BNV.flatten(0, 1), numbers.flatten(), sampling).view_as(true).to(true.dtype)

    return encode
