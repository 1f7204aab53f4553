"""Sampling a token: temperature, top-k, top-p, then the inverse of the cumulative distribution at a uniform number.

The uniform numbers are sampled before decoding, one row per request, so a request's tokens depend on its own seed only,
and no step waits for the device or touches a global random state.

Shapes: B batch, K tokens that survive top-k, V vision vocabulary or codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glmkit.errors import UserError

# The score of token n is lowered by n times this much, so that equal logits (common in bfloat16) are ordered by id,
# which no kernel promises on its own. In float64 it is below what the logits of any model type resolve.
TIE_BREAK = 2.0**-42
KERNEL_TOP_K = 128  # what `sample_by_kernels` can sort
CHUNK = 1024  # tokens of which one program finds the best


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled; `top_k` 0 keeps all.

    The defaults are what the pipeline of diffusers does: temperature and top-p stand in the checkpoint's generation
    config, top-k 50 is added silently by transformers 5.
    """

    temperature: float = 0.9
    top_p: float = 0.75
    top_k: int = 50

    def __post_init__(self) -> None:
        """Raise UserError for values out of range."""
        if not self.temperature > 0:
            raise UserError(
                "temperature must be above 0", found=self.temperature, fix="top_k 1 for the likeliest token"
            )
        if not 0 < self.top_p <= 1:
            raise UserError("top_p must be above 0 and at most 1", found=self.top_p)
        if self.top_k < 0:
            raise UserError("top_k must not be negative", found=self.top_k, fix="0 keeps all tokens")


def uniforms(seed: int, count: int) -> Tensor:
    """Sample `count` float32 numbers in [0, 1) from a request's own generator, on the CPU."""
    return torch.rand(count, generator=torch.Generator("cpu").manual_seed(seed))


def top_k_top_p(logits_BV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens B K, most likely first, their cumulative probabilities B K, and how many stay, B 1.

    Top-p keeps the tokens before which less than `top_p` has been collected: the one that crosses the border stays.
    """
    size = logits_BV.shape[-1]
    kept = min(sampling.top_k, size) or size
    tie_break_V = torch.arange(size, device=logits_BV.device, dtype=torch.float64) * TIE_BREAK
    scores_BK, ids_BK = torch.topk(logits_BV.double() - tie_break_V, kept, dim=-1)
    cumulative_BK = (scores_BK / sampling.temperature).softmax(dim=-1).cumsum(dim=-1)
    allowed_B1 = 1 + (cumulative_BK[:, :-1] < sampling.top_p).sum(dim=-1, keepdim=True)
    return ids_BK, cumulative_BK, allowed_B1


def sample(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> Tensor:
    """Sample one token of each sequence, int64 B: the first whose cumulative probability exceeds its uniform number.

    `uniforms_B` is float32: times a float64 mass, a number under 1 cannot round up to the border.
    """
    ids_BK, cumulative_BK, allowed_B1 = top_k_top_p(logits_BV, sampling)
    mass_B1 = cumulative_BK.gather(1, allowed_B1 - 1)
    rank_B1 = (cumulative_BK <= uniforms_B[:, None] * mass_B1).sum(dim=-1, keepdim=True)
    return ids_BK.gather(1, rank_B1)[:, 0]


def sample_by_kernels(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> Tensor:
    """Return the tokens of `sample` by two launches in place of some twenty, for `top_k` from 1 to KERNEL_TOP_K."""
    batch, size = logits_BV.shape
    kept = min(sampling.top_k, size)
    if not 0 < kept <= KERNEL_TOP_K:
        return sample(logits_BV, uniforms_B, sampling)
    from glmkit.models.autoregressive import kernels  # needs Triton

    top, chunks = 1 << max(1, (kept - 1).bit_length()), -(-size // CHUNK)
    best_BCK = torch.empty(batch, chunks, top, dtype=torch.int64, device=logits_BV.device)
    kernels.candidates_kernel[(batch, chunks)](logits_BV, best_BCK, logits_BV.stride(0), size, CHUNK, top)
    ids_B = torch.empty(batch, dtype=torch.int64, device=logits_BV.device)
    padded = 1 << (chunks * top - 1).bit_length()
    kernels.sample_kernel[(batch,)](
        best_BCK, uniforms_B, ids_B, chunks, kept, sampling.temperature, sampling.top_p, padded, top
    )
    return ids_B
