"""Classifier-free guidance on two processes: the first denoises with the conditions, the second without.

The first process does everything else, as if it were alone. The second holds the decoder only, and answers: each step
it gets the latents and gives their unconditional velocity. Either half computes what it would in one process, so the
image is the same. xDiT (arXiv:2411.01738) calls this CFG parallelism.

Shapes: B images, C channels, H W rows and columns of latents, T glyph tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.together import together
from glmkit.errors import UserError
from glmkit.generation.loading import device_of_rank
from glmkit.models.decoder.denoiser import Denoiser, DenoiserSample
from glmkit.models.hybrid import HybridModel

FIRST, SECOND = 0, 1  # ranks
LAUNCHER = "torchrun --nproc-per-node 2 -m glmkit ... --parallel guidance"


@dataclass(frozen=True)
class UnconditionalBatch:
    """Hold what the second process knows of a batch: what its `Denoiser` is made of, and the shape of latents B C H W.

    `glyph_embeds` T x text_embed_dim are those of the empty text, `timesteps` and `full_steps` as in `Denoiser`.
    """

    glyph_embeds: Tensor
    timesteps: Tensor
    full_steps: tuple[bool, ...]
    size: tuple[int, int]
    grid: tuple[int, int]
    shape: tuple[int, ...]


class GuidancePartner:
    """The second process as the first one sees it."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group

    def begin(self, batch: UnconditionalBatch) -> None:
        """Have it ready for the steps of a batch, in place of the one before, finished or not."""
        _tell(self._group, batch)

    def velocities(self, denoiser: Denoiser, latents: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the conditional velocities by `denoiser` and, computed meanwhile, the unconditional ones, B C H W."""
        latents = latents.contiguous()
        unconditional = torch.empty_like(latents)
        _tell(self._group, step)
        dist.send(latents, SECOND)
        try:
            conditional = denoiser(latents, step)
        finally:  # the second process waits until its answer is taken
            dist.recv(unconditional, SECOND)
        return conditional, unconditional

    def end(self) -> None:
        """Let the second process end."""
        _tell(self._group, None)


def run(arguments: argparse.Namespace, command: Callable[[], int], load: Callable[[], HybridModel]) -> int:
    """Run a command in the first of two processes, with the second one as `arguments.partner`; returns its exit code.

    `load` gives the second process a model, of which it uses the decoder. What fails in either ends both, but for a
    request that fails in the first alone. UserError unless there are two.
    """
    with together(device_of_rank(arguments.device)) as group:
        if group.world_size != 2:
            what = "--parallel guidance needs two processes, one for each half of guidance"
            raise UserError(what, found=f"{group.world_size} of a launcher", fix=LAUNCHER)
        if not group.is_main:
            answer(load(), group)
            return 0
        arguments.partner = GuidancePartner(group)
        code = command()
        arguments.partner.end()
        return code


@torch.inference_mode()
def answer(hybrid: HybridModel, group: ProcessGroup) -> None:
    """Be the second process until the first one ends."""
    denoiser: Denoiser | None = None
    latents = torch.empty(0)
    while (message := _hear(group)) is not None:
        if isinstance(message, UnconditionalBatch):
            sample = DenoiserSample(message.glyph_embeds.to(hybrid.device), None)
            denoiser = Denoiser(
                hybrid.decoder,
                [sample] * message.shape[0],
                message.timesteps,
                message.size,
                message.grid,
                hybrid.compiled,
                full_steps=message.full_steps,
            )
            latents = torch.empty(message.shape, dtype=hybrid.dtype, device=hybrid.device)
        else:
            assert denoiser is not None
            dist.recv(latents, FIRST)
            dist.send(denoiser(latents, message).contiguous(), FIRST)


def _tell(group: ProcessGroup, message: UnconditionalBatch | int | None) -> None:
    dist.broadcast_object_list([message], FIRST, group.patient)


def _hear(group: ProcessGroup) -> UnconditionalBatch | int | None:
    """Wait for a message without a limit: an AR model, or a whole list of images that are there, may come before it."""
    messages: list[UnconditionalBatch | int | None] = [None]
    dist.broadcast_object_list(messages, FIRST, group.patient)
    return messages[0]
