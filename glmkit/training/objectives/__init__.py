"""What each stage learns: one file a stage, one class with `loss` and `validation`; the loop is `training/loop.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

EVERY = slice(None)


class Objective(Protocol):
    """The seam between the loop and a stage. Everything random comes from the generator that the loop passes in."""

    trained: nn.Module
    """Holds every trained parameter (those that require gradients), also parts that only training needs."""

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of the images `indices`, and what to show beside it (detached scalars)."""

    def validation_losses(self) -> dict[str, float]:
        """Losses on images never trained on, with fixed noise and times; the key `loss` is the one that counts."""

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Called after every optimizer step; by default nothing is left to do."""
        return

    def finish(self) -> None:
        """Called once when the last step is done and averaged weights, if any, are in place; the same holds."""
        return

    def compile(self) -> None:
        """Compile what runs every step."""


class Divisible(Objective, Protocol):
    """A stage that processes may learn together, also by the rows of one micro-batch."""

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """With `rows`, of these of the images alone, everything drawn as for all: the loss of all is the mean over
        equal parts. So it is but for dropout, and for means whose weights depend on the data (see `processes.check`).
        """


def build(name: str, **context: Any) -> Objective:
    """The objective of stage `name` (vae, semantic_vq, autoregressive, decoder, glyph, clip)."""
    from glmkit.training.objectives import autoregressive, clip, decoder, glyph, semantic_vq, vae

    kinds = {
        "vae": vae.VaeObjective,
        "semantic_vq": semantic_vq.SemanticObjective,
        "autoregressive": autoregressive.AutoregressiveObjective,
        "decoder": decoder.DecoderObjective,
        "glyph": glyph.GlyphObjective,
        "clip": clip.ClipObjective,
    }
    return kinds[name](**context)
