"""One image denoised by several processes, which share the halves of guidance, its tokens, or both.

The first process does everything else, as if it were alone. The others hold the decoder only, and answer: each step
they get the latents and compute their part. Halves of guidance are those of one process bit for bit; xDiT
(arXiv:2411.01738) calls this CFG parallelism. Parts of the image tokens (`TokenShare`) have other sums, so the image
differs by rounding.

Ranks: those of the conditional half come first; in each half they stand in the order of the tokens.

Shapes: B images, C channels, H W rows and columns of latents, T glyph tokens, N image tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.together import EndsAll, together
from glmkit.errors import UserError
from glmkit.generation.loading import device_of_rank
from glmkit.models.decoder.denoiser import Denoiser, DenoiserSample, cache_condition_images
from glmkit.models.decoder.token_share import TokenShare
from glmkit.models.hybrid import HybridModel

FIRST = 0  # rank
LAUNCHER = "torchrun --nproc-per-node {count} -m glmkit ... --parallel {mode}"
LEAST = {"guidance": 2, "sequence": 2, "guidance+sequence": 4}  # processes of each mode
ConditionImageInputs = tuple[Tensor, Tensor, tuple[int, int]]  # see `DiffusionDecoder.cache_condition_images`


@dataclass(frozen=True)
class Conditions:
    """Hold the conditions of one image: glyph embeddings T text_embed_dim, N prior tokens, and condition images."""

    glyph_embeds: Tensor
    prior_token_ids: Tensor | None = None
    condition_images: tuple[ConditionImageInputs, ...] = ()

    def sample(self, hybrid: HybridModel) -> DenoiserSample:
        """Return them on the model's device, condition images as what the decoder reads of them."""
        device, images = hybrid.device, self.condition_images
        moved = [(latents.to(device, hybrid.dtype), ids.to(device), size) for latents, ids, size in images]
        cache = cache_condition_images(hybrid.decoder, moved, hybrid.compiled) if images else None
        return DenoiserSample(self.glyph_embeds.to(device), self.prior_token_ids, cache)

    def on_cpu(self) -> Conditions:
        """Return a copy that can be sent."""
        prior_token_ids = None if self.prior_token_ids is None else self.prior_token_ids.cpu()
        images = tuple((latents.cpu(), ids.cpu(), size) for latents, ids, size in self.condition_images)
        return Conditions(self.glyph_embeds.cpu(), prior_token_ids, images)


@dataclass(frozen=True)
class DenoisingBatch:
    """Hold what all processes know of a batch.

    `conditional` are those of every image, `unconditional` those of guidance, None without it; the first
    `guided_steps` have it. `timesteps`, `full_steps`, `size` and `grid` are those of `Denoiser`, `shape` that of the
    latents, B C H W.
    """

    conditional: tuple[Conditions, ...]
    unconditional: Conditions | None
    guided_steps: int
    timesteps: Tensor
    full_steps: tuple[bool, ...]
    size: tuple[int, int]
    grid: tuple[int, int]
    shape: tuple[int, ...]

    def denoiser(self, hybrid: HybridModel, halves: Sequence[bool], share: TokenShare | None = None) -> Denoiser:
        """Return the denoiser of the conditional half (True), the unconditional half or both, in this order."""
        batch = len(self.conditional)
        samples = [one.sample(hybrid) for one in self.conditional] if True in halves else []
        if False in halves and self.unconditional is not None:
            samples += [self.unconditional.sample(hybrid)] * batch
        return Denoiser(
            hybrid.decoder,
            samples,
            self.timesteps,
            self.size,
            self.grid,
            hybrid.compiled,
            leading=batch if len(halves) == 2 and self.guided_steps < len(self.timesteps) else 0,
            full_steps=self.full_steps,
            share=share,
        )


@dataclass(frozen=True)
class Layout:
    """Say what each of the processes computes: one of `halves` of guidance (1: both), one part of the tokens."""

    group: ProcessGroup
    halves: int
    share: TokenShare | None

    @classmethod
    def of(cls, mode: str, group: ProcessGroup) -> Layout:
        """Share out a mode of --parallel; UserError when the processes are too few, or of the wrong number."""
        count, least = group.world_size, LEAST[mode]
        halves = 1 if mode == "sequence" else 2
        wrong = count != least if mode == "guidance" else count < least or count % halves
        if wrong:
            needs = "two processes, one for each half of guidance" if mode == "guidance" else f"{least} processes"
            more = ", or another even number" if mode == "guidance+sequence" else ""
            what = f"--parallel {mode} needs {needs}{more}"
            fix = LAUNCHER.format(count=least, mode=mode)
            raise UserError(what, found=f"{count} of a launcher", fix=fix)
        parts = count // halves
        share = None
        if parts > 1:
            groups = [dist.new_group(range(half * parts, (half + 1) * parts)) for half in range(halves)]
            share = TokenShare(group.rank % parts, parts, groups[group.rank // parts])
        return cls(group, halves, share)

    @property
    def parts(self) -> int:
        """Count the parts of the tokens."""
        return 1 if self.share is None else self.share.count

    @property
    def own_halves(self) -> tuple[bool, ...]:
        """Name the halves that this process computes, True for the conditional one."""
        return (True, False) if self.halves == 1 else (self.group.rank < self.parts,)

    @property
    def first_unconditional(self) -> int:
        """Return the rank that answers for the second half."""
        return self.parts


class DenoisingPartners:
    """The other processes as the first one sees them."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._group = layout, layout.group

    def serves(self, guided: bool) -> bool:
        """Tell whether they have something to do for images with or without guidance."""
        return guided or self._layout.share is not None

    def begin(self, batch: DenoisingBatch, hybrid: HybridModel) -> Denoiser:
        """Have them ready for the steps of a batch, in place of the one before, finished or not; returns our denoiser.

        UserError when the image tokens have no such parts.
        """
        tokens, parts = batch.grid[0] * batch.grid[1], self._layout.parts
        if tokens % parts:
            what = f"{batch.size[1]}x{batch.size[0]} has {tokens} image tokens, which {parts} processes cannot share"
            raise UserError(what, fix="2 or 4 processes for the tokens")
        sent = replace(batch, conditional=tuple(one.on_cpu() for one in batch.conditional))
        if self._layout.share is None:  # the other one computes without conditions
            sent = replace(sent, conditional=tuple(Conditions(torch.empty(0)) for _ in batch.conditional))
        if batch.unconditional is not None:
            sent = replace(sent, unconditional=batch.unconditional.on_cpu())
        _tell(self._group, sent)
        return batch.denoiser(hybrid, self._layout.own_halves, self._layout.share)

    def velocities(self, denoiser: Denoiser, latents: Tensor, step: int, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Return the conditional velocities of one step and, if it is guided, the unconditional ones, B C H W each."""
        latents = latents.contiguous()
        _tell(self._group, step)
        dist.broadcast(latents, FIRST)
        both = self._layout.halves == 1 and guided
        others = self._layout.halves == 2 and guided  # compute the unconditional half
        try:
            velocities = denoiser(torch.cat([latents, latents]) if both else latents, step)
        except Exception as error:
            if self._layout.share is not None:  # the others wait for this one's tokens
                raise EndsAll(f"step {step + 1}: {error}") from error
            if others:  # the other one waits until its answer is taken
                self._answer(latents)
            raise
        if both:
            conditional, unconditional = velocities.chunk(2)
            return conditional, unconditional
        return velocities, self._answer(latents) if others else None

    def _answer(self, latents: Tensor) -> Tensor:
        unconditional = torch.empty_like(latents)
        dist.recv(unconditional, self._layout.first_unconditional)
        return unconditional

    def end(self) -> None:
        """Let the other processes end."""
        _tell(self._group, None)


def run(arguments: argparse.Namespace, command: Callable[[], int], load: Callable[[], HybridModel]) -> int:
    """Run a command in the first of several processes, with the others as `arguments.partners`; returns its exit code.

    `load` gives the others a model, of which they use the decoder. What fails in one ends all, but for a request that
    fails in the first alone, before the tokens are shared. UserError when they are too few for `arguments.parallel`.
    """
    with together(device_of_rank(arguments.device)) as group:
        layout = Layout.of(arguments.parallel, group)
        if not group.is_main:
            answer(load(), layout)
            return 0
        arguments.partners = DenoisingPartners(layout)
        code = command()
        arguments.partners.end()
        return code


@torch.inference_mode()
def answer(hybrid: HybridModel, layout: Layout) -> None:
    """Be one of the other processes until the first one ends."""
    denoiser: Denoiser | None = None
    batch: DenoisingBatch | None = None
    latents = torch.empty(0)
    while (message := _hear(layout.group)) is not None:
        if isinstance(message, DenoisingBatch):
            batch = message
            has_part = layout.own_halves != (False,) or batch.unconditional is not None
            denoiser = batch.denoiser(hybrid, layout.own_halves, layout.share) if has_part else None
            latents = torch.empty(batch.shape, dtype=hybrid.dtype, device=hybrid.device)
            continue
        assert batch is not None
        dist.broadcast(latents, FIRST)
        guided = message < batch.guided_steps
        if layout.own_halves == (False,):
            if guided and denoiser is not None:
                velocities = denoiser(latents, message).contiguous()
                if layout.group.rank == layout.first_unconditional:
                    dist.send(velocities, FIRST)
        elif denoiser is not None:
            denoiser(torch.cat([latents, latents]) if layout.halves == 1 and guided else latents, message)


def _tell(group: ProcessGroup, message: DenoisingBatch | int | None) -> None:
    dist.broadcast_object_list([message], FIRST, group.patient)


def _hear(group: ProcessGroup) -> DenoisingBatch | int | None:
    """Wait for a message without a limit: an AR model, or a whole list of images that are there, may come before it."""
    messages: list[DenoisingBatch | int | None] = [None]
    dist.broadcast_object_list(messages, FIRST, group.patient)
    return messages[0]
