"""Time prefill and decoding steps of the AR model on the device's own clock."""

from __future__ import annotations

import time

import torch

from glmkit.generation.prior_tokens import prior_token_decoder
from glmkit.generation.sampling import Sampling, uniforms
from glmkit.models.hybrid import HybridModel


def time_decoding(hybrid: HybridModel, batch: int, length: int, tokens: int) -> tuple[float, float]:
    """Return the seconds of prefill with the first token, and of all tokens after it; each prompt has `length` tokens.

    Tokens stand in one row, since their positions cost the same in every grid.
    """
    marks = [Mark(hybrid.device)]

    def progress(done: int, total: int) -> None:
        if done in (1, total):
            marks.append(Mark(hybrid.device))

    ids = [[hybrid.autoregressive.config.image_start_token_id] * length] * batch
    positions = [torch.arange(length).expand(3, -1)] * batch
    numbers = torch.stack([uniforms(seed, tokens) for seed in range(batch)])
    prior_token_decoder(hybrid).generate(ids, positions, [(1, tokens)], numbers, Sampling(), progress)
    return marks[0].until(marks[1]), marks[1].until(marks[-1])


class Mark:
    """Mark a point in the device's work without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self.seconds, self.event = time.perf_counter(), None
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record()

    def until(self, later: Mark) -> float:
        if self.event is None or later.event is None:
            return later.seconds - self.seconds
        later.event.synchronize()
        return float(self.event.elapsed_time(later.event)) / 1e3
