"""Writing picture codes: temperature, top-k, top-p, then the inverse of the cumulative distribution at a given number.

The uniform numbers are drawn before decoding, one row a request, so a request's codes depend on its own seed only, and
no step waits for the device or touches a global random state.

Shapes: B batch, P longest prompt, N picture tokens, K codes that survive top-k, V vision vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.errors import UserError
from glmkit.generation.sequence import Grid, decode_positions, next_position
from glmkit.models.autoregressive import AutoregressiveConfig, AutoregressiveModel, KVCache

Progress = Callable[[int, int], None]


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


@dataclass(frozen=True)
class PaddedPrompts:
    """Prompts of one batch, padded on the left so that all of them end in the last column.

    `valid_BP` is None when no row is padded. `decode_3BN` are the positions of the tokens to be written.
    """

    ids_BP: Tensor
    positions_3BP: Tensor
    valid_BP: Tensor | None
    decode_3BN: Tensor


def pad_prompts(
    prompts: Sequence[Sequence[int]],
    positions: Sequence[Tensor],
    grids_in_order: Sequence[Grid],
    config: AutoregressiveConfig,
) -> PaddedPrompts:
    """Batch prompts with their positions 3 x P and place the grids that follow each of them; on the CPU."""
    longest = max(len(prompt) for prompt in prompts)
    missing = [longest - len(prompt) for prompt in prompts]
    ids = [[config.pad_token_id] * pad + list(prompt) for pad, prompt in zip(missing, prompts, strict=True)]
    placed = [F.pad(part, (pad, 0)) for pad, part in zip(missing, positions, strict=True)]
    valid_BP = torch.arange(longest) >= torch.tensor(missing)[:, None]
    decode = [decode_positions(next_position(part), grids_in_order) for part in positions]
    return PaddedPrompts(
        torch.tensor(ids), torch.stack(placed, dim=1), valid_BP if any(missing) else None, torch.stack(decode, dim=1)
    )


@torch.inference_mode()
def sample_tokens(
    model: AutoregressiveModel,
    prompts: Sequence[Sequence[int]],
    positions: Sequence[Tensor],
    grids_in_order: Sequence[Grid],
    uniforms_BN: Tensor,
    sampling: Sampling,
    progress: Progress | None = None,
) -> Tensor:
    """Codes int64 B N, N = all tokens of `grids_in_order`, on the model's device; every one a picture code.

    `positions[b]` are those of `prompts[b]`, 3 x P; row b of `uniforms_BN` belongs to request b. The end token would
    come next and carries no information, so its step is not run. `progress(done, N)` is called after every token.
    """
    weight = model.lm_head.weight
    batch, config = pad_prompts(prompts, positions, grids_in_order, model.config), model.config
    total, columns = batch.decode_3BN.shape[-1], batch.ids_BP.shape[1]
    cache = KVCache.allocate(config, len(prompts), columns + total - 1, weight.device, weight.dtype)
    valid_BP = None if batch.valid_BP is None else batch.valid_BP.to(weight.device)
    decode_3BN, uniforms_NB = batch.decode_3BN.to(weight.device), uniforms_BN.T.contiguous().to(weight.device)
    written_BN = torch.empty(len(prompts), total, dtype=torch.int64, device=weight.device)

    ids_BT, positions_3BT = batch.ids_BP.to(weight.device), batch.positions_3BP.to(weight.device)
    for step in range(total):
        logits_BTV = model(ids_BT, positions_3BT, valid_BP if step == 0 else None, cache, keep=slice(-1, None))
        written_BN[:, step] = draw(logits_BTV[:, 0, : config.codes], uniforms_NB[step], sampling)
        ids_BT, positions_3BT = written_BN[:, step : step + 1], decode_3BN[..., step : step + 1]
        if progress is not None:
            progress(step + 1, total)
    return written_BN
