"""Writing image codes: temperature, top-k, top-p, then the inverse of the cumulative distribution at a given number.

The uniform numbers are drawn before decoding, one row a request, so a request's codes depend on its own seed only, and
no step waits for the device or touches a global random state. `glmkit.generation.decoding` runs the steps.

Shapes: B batch, K codes that survive top-k, V vision vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glmkit.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn; `top_k` 0 keeps all.

    The defaults are what the stock pipeline does: temperature and top-p stand in the checkpoint's generation config,
    top-k 50 is added silently by transformers 5.
    """

    temperature: float = 0.9
    top_p: float = 0.75
    top_k: int = 50

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError("temperature must be above 0", found=self.temperature, fix="top_k 1 for the likeliest code")
        if not 0 < self.top_p <= 1:
            raise UserError("top_p must be above 0 and at most 1", found=self.top_p)
        if self.top_k < 0:
            raise UserError("top_k must not be negative", found=self.top_k, fix="0 keeps all codes")


def uniforms(seed: int, count: int) -> Tensor:
    """`count` float32 numbers in [0, 1) of a request's own generator, on the CPU."""
    return torch.rand(count, generator=torch.Generator("cpu").manual_seed(seed))


def filtered(logits_BV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Codes B K, most likely first, their cumulative probabilities B K, and how many of them may be drawn, B 1.

    Top-p keeps the codes before which less than `top_p` has been collected: the one that crosses the border stays.
    Equal logits (common in bfloat16) are ordered by id, which no kernel promises on its own.
    """
    size = logits_BV.shape[-1]
    kept = min(sampling.top_k, size) or size
    tie_break_V = torch.arange(size, device=logits_BV.device, dtype=torch.float64) * 2.0**-42
    scores_BK, ids_BK = torch.topk(logits_BV.double() - tie_break_V, kept, dim=-1)
    cumulative_BK = (scores_BK / sampling.temperature).softmax(dim=-1).cumsum(dim=-1)
    allowed_B1 = 1 + (cumulative_BK[:, :-1] < sampling.top_p).sum(dim=-1, keepdim=True)
    return ids_BK, cumulative_BK, allowed_B1


def draw(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> Tensor:
    """One code for each row, int64 B: the first one whose cumulative probability exceeds its uniform number.

    `uniforms_B` is float32: times a float64 mass, a number under 1 cannot round up to the border.
    """
    ids_BK, cumulative_BK, allowed_B1 = filtered(logits_BV, sampling)
    mass_B1 = cumulative_BK.gather(1, allowed_B1 - 1)
    rank_B1 = (cumulative_BK <= uniforms_B[:, None] * mass_B1).sum(dim=-1, keepdim=True)
    return ids_BK.gather(1, rank_B1)[:, 0]


KERNEL_TOP_K = 128  # what `draw_by_kernels` can sort
CHUNK = 1024  # codes of which one program finds the best


def draw_by_kernels(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> Tensor:
    """The codes of `draw` from two launches in place of some twenty, for `top_k` from 1 to KERNEL_TOP_K."""
    rows, codes = logits_BV.shape
    kept = min(sampling.top_k, codes)
    if not 0 < kept <= KERNEL_TOP_K:
        return draw(logits_BV, uniforms_B, sampling)
    from glmkit.models.autoregressive import kernels  # needs Triton

    top, chunks = 1 << max(1, (kept - 1).bit_length()), -(-codes // CHUNK)
    found_BCK = torch.empty(rows, chunks, top, dtype=torch.int64, device=logits_BV.device)
    kernels.candidates_kernel[(rows, chunks)](logits_BV, found_BCK, logits_BV.stride(0), codes, CHUNK, top)
    drawn_B = torch.empty(rows, dtype=torch.int64, device=logits_BV.device)
    everything = 1 << (chunks * top - 1).bit_length()
    kernels.sample_kernel[(rows,)](
        found_BCK, uniforms_B, drawn_B, chunks, kept, sampling.temperature, sampling.top_p, everything, top
    )
    return drawn_B
