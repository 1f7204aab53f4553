"""The loss of GRPO on sampled tokens (Shao et al. 2024, arXiv:2402.03300), by the distribution that sampled them.

Sampling divides logits by the temperature, and where top-k or top-p is on, it keeps some of the tokens: probabilities
are those among the tokens kept. Which tokens these are is fixed when a round begins, else a change of weights would
look like a change of probability.

B batch, N tokens, K tokens kept at most, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glmkit.generation.sampling import Sampling, top_k_top_p


def kept_tokens(logits_BNV: Tensor, tokens_BN: Tensor, sampling: Sampling) -> Tensor | None:
    """Return the ids that sampling keeps, int64 B N K, -1 behind the last; None where it keeps all.

    The sampled token is one of them: it may miss the border by a rounding error, since one forward pass over a whole
    sequence adds up in another order than decoding does.
    """
    if sampling.top_k in (0, logits_BNV.shape[-1]) and sampling.top_p == 1:
        return None
    ids_MK, _, allowed_M1 = top_k_top_p(logits_BNV.detach().flatten(0, 1), sampling)
    ids_MK = ids_MK[:, : int(allowed_M1.max())]
    ids_MK = ids_MK.masked_fill(torch.arange(ids_MK.shape[1], device=ids_MK.device) >= allowed_M1, -1)
    tokens_M1 = tokens_BN.reshape(-1, 1)
    is_in_M1 = (ids_MK == tokens_M1).any(dim=1, keepdim=True)
    return torch.cat((ids_MK, tokens_M1.masked_fill(is_in_M1, -1)), dim=1).view(*tokens_BN.shape, -1)


def log_distribution(logits_BNV: Tensor, temperature: float, kept_BNK: Tensor | None) -> Tensor:
    """Return the log-probabilities B N V with which sampling picks tokens; -inf for those that are not kept."""
    scaled_BNV = logits_BNV / temperature
    if kept_BNK is not None:
        # One column more takes the marks of the ids that are none.
        size = logits_BNV.shape[-1]
        mask_BNV = torch.zeros(*logits_BNV.shape[:2], size + 1, dtype=torch.bool, device=logits_BNV.device)
        mask_BNV.scatter_(-1, kept_BNK.where(kept_BNK >= 0, size), value=True)
        scaled_BNV = scaled_BNV.masked_fill(~mask_BNV[..., :size], -torch.inf)
    return scaled_BNV.log_softmax(dim=-1)


def entropy(log_probs_BNV: Tensor) -> Tensor:
    """Return the entropy B N of distributions in nats; what has no probability counts nothing."""
    return -(log_probs_BNV.exp() * log_probs_BNV.clamp_min(torch.finfo(log_probs_BNV.dtype).min)).sum(dim=-1)


def divergence(log_probs_BNV: Tensor, others_BNV: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence B N, in nats, of the first distributions from the second ones."""
    return (log_probs_BNV.exp() * (log_probs_BNV - others_BNV)).sum(dim=-1)


def clipped_loss(
    log_probs_BN: Tensor, old_BN: Tensor, advantages_B: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Return the loss of every token B N, and where it is clipped, so that there is no gradient.

    `old_BN` are the log-probabilities with which the tokens were sampled. Clipped surrogate of PPO (arXiv:1707.06347),
    with bounds of their own (arXiv:2503.14476).
    """
    advantages_B1 = advantages_B[:, None]
    ratio_BN = (log_probs_BN - old_BN).exp()
    gain_BN, clipped_BN = ratio_BN * advantages_B1, ratio_BN.clamp(1 - low, 1 + high) * advantages_B1
    return -torch.minimum(gain_BN, clipped_BN), clipped_BN < gain_BN
