"""Flow matching: timesteps of the decoder, the noise levels that they mean, and Euler's method through them.

A time t in 1..1000 is two numbers. The decoder reads `t - 1`, UNSHIFTED; the latents carry noise at
`sigma = shift(t / 1000)`, which depends on the image's size. Both are made in one function, `times_at`, for generation
(`schedule`) and training (`training_times`), so that the two cannot drift apart.

Formulas: `GlmImagePipeline.__call__` and `FlowMatchEulerDiscreteScheduler` (linear time shift) of diffusers 0.42.
Shapes: B batch, C channels, H W rows and columns of latents, n steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from glmkit.errors import UserError

PIXELS_PER_TOKEN = 16  # 8 pixels per latent, 2 latents per patch
FIRST_FULL = 3  # steps in which an image takes shape, and nothing is used again


@dataclass(frozen=True)
class FlowConfig:
    """The keys of `scheduler_config.json` that the schedule depends on; the defaults are the published values."""

    num_train_timesteps: int = 1000
    base_shift: float = 0.25
    max_shift: float = 0.75
    base_image_seq_len: int = 256

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlowConfig:
        """Read a published config; UserError for a scheduler that shifts times in another way."""
        for key, expected in (("use_dynamic_shifting", True), ("time_shift_type", "linear")):
            if values.get(key) != expected:
                raise UserError(
                    f"the scheduler's {key} is not GLM-Image's", found=values.get(key), fix=f"{key}: {expected}"
                )
        config = cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        if (
            min(config.num_train_timesteps, config.base_image_seq_len) < 1
            or min(config.base_shift, config.max_shift) < 0
        ):
            fix = "the scheduler/scheduler_config.json that came with the model"
            raise UserError("the scheduler_config.json gives no noise levels", found=config, fix=fix)
        return config


class Times(NamedTuple):
    """Hold what the decoder reads (`timestep`, t - 1) and its noise level (`sigma`, shifted), of the same shape."""

    timestep: Tensor
    sigma: Tensor


class Schedule(NamedTuple):
    """`timesteps` n, one per denoising step; `sigmas` n + 1, falling to 0. Both float32 on the CPU."""

    timesteps: Tensor
    sigmas: Tensor


def sequence_length(height: int, width: int) -> int:
    """Count the decoder's image tokens for an image of height x width pixels."""
    return (height // PIXELS_PER_TOKEN) * (width // PIXELS_PER_TOKEN)


def mu(seq_len: int, config: FlowConfig) -> float:
    """Return the strength of the shift for an image of `seq_len` tokens; larger images get more noise."""
    return config.max_shift * math.sqrt(seq_len / config.base_image_seq_len) + config.base_shift


def shift_sigma(sigma: Tensor, seq_len: int, config: FlowConfig) -> Tensor:
    """Shift noise levels in [0, 1] for the size: mu / (mu + 1 / sigma - 1), written so that 0 and 1 stay exact."""
    scaled = mu(seq_len, config) * sigma
    return scaled / (scaled + (1 - sigma))


def times_at(t: Tensor, height: int, width: int, config: FlowConfig) -> Times:
    """Pair timesteps and noise levels of times t (any shape, in 1..num_train_timesteps) for a size in pixels."""
    t = t.float()
    return Times(t - 1, shift_sigma(t / config.num_train_timesteps, sequence_length(height, width), config))


def schedule(height: int, width: int, steps: int, config: FlowConfig) -> Schedule:
    """Space `steps` whole times equally from 1000 down to above 1, and pair them with their noise levels."""
    if not 1 <= steps <= config.num_train_timesteps:
        raise UserError(f"the number of steps must be 1 to {config.num_train_timesteps}", found=steps, fix="--steps 30")
    # numpy's linspace, since another rounding of its float64 values would move a rounded time by a whole one
    t = np.floor(np.linspace(config.num_train_timesteps, 1, steps + 1)[:-1])
    times = times_at(torch.from_numpy(t), height, width, config)
    return Schedule(times.timestep, torch.cat([times.sigma, torch.zeros(1)]))


def full_steps(steps: int, reuse: int) -> tuple[bool, ...]:
    """Say for each step whether the decoder's blocks run; in the others, what they added last is added again.

    The first FIRST_FULL steps, every `reuse`-th one from there, and the last are full: all with `reuse` 1. This is
    FORA's schedule (Selvaraju et al. 2024, arXiv:2407.01425), for all blocks together in place of each layer.
    """
    return tuple(step < FIRST_FULL or (step - FIRST_FULL) % reuse == 0 or step == steps - 1 for step in range(steps))


def guided_steps(steps: int, guidance: float, share: float = 1.0) -> int:
    """Count the steps, from the first, that use guidance: the nearest number to a `share` of them, at least one.

    0 where guidance is off (at most 1). Late steps need it least (Kynkäänniemi et al. 2024, arXiv:2404.07724).
    """
    return max(1, round(share * steps)) if guidance > 1 else 0


def integrate(
    velocity: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    schedule: Schedule,
    progress: Callable[[int, int], None] | None = None,
    predicted: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Follow the velocity from `noise` B C H W to clean latents by Euler's method, in float32.

    `velocity(latents B C H W, step)` predicts `noise - clean`, B C H W, at the schedule's timestep number `step`.
    `progress(done, steps)` is called after each step, `predicted(done, latents)` with the clean latents that this step
    would end in.
    """
    latents = noise.float()
    sigmas = schedule.sigmas.tolist()
    steps = len(schedule.timesteps)
    for step in range(steps):
        change = velocity(latents, step).float()
        if predicted is not None:
            predicted(step + 1, latents - sigmas[step] * change)
        latents = latents + (sigmas[step + 1] - sigmas[step]) * change
        if progress is not None:
            progress(step + 1, steps)
    return latents


def training_times(
    count: int,
    height: int,
    width: int,
    config: FlowConfig,
    *,
    logit_mean: float = 0.0,
    logit_std: float | None = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Times:
    """Sample random times for `count` images, paired as generation pairs them.

    t / 1000 follows a logit-normal law (Esser et al. 2024, arXiv:2403.03206) BEFORE the shift, squeezed into
    [1, 1000] / 1000; `logit_std` None makes it uniform. `generator` must live on `device`.
    """
    if logit_std is None:
        u = torch.rand(count, generator=generator, device=device)
    else:
        u = torch.sigmoid(logit_mean + logit_std * torch.randn(count, generator=generator, device=device))
    return times_at(1 + u * (config.num_train_timesteps - 1), height, width, config)


def add_noise(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Mix latents B C H W with noise at levels `sigma` B: (1 - sigma) clean + sigma noise."""
    return torch.lerp(latents, noise, sigma[:, None, None, None].to(latents.dtype))


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """Return what the decoder learns to predict: the change of the noisy latents with sigma."""
    return noise - latents
