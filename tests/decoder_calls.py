"""What the decoder is called with while an objective computes its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glmkit.training.objectives.decoder import DecoderObjective


def decoder_calls(
    objective: DecoderObjective, indices: Sequence[int], seeds: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """What the decoder was given in each of several steps; always with a mask of the glyphs."""
    seen: list[tuple[Tensor, ...]] = []

    def note(_: Any, given: tuple[Tensor, ...]) -> None:
        latents, glyph, mask, *others = given
        seen.append((latents, glyph, torch.ones(glyph.shape[:2], dtype=torch.bool) if mask is None else mask, *others))

    handle = objective.decoder.register_forward_pre_hook(note)
    for seed in seeds:
        objective.loss(indices, torch.Generator().manual_seed(seed))
    handle.remove()
    return seen
