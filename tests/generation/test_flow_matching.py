"""Times, noise levels and Euler's steps against diffusers' scheduler, driven as GlmImagePipeline drives it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.glm_image.pipeline_glm_image import calculate_shift, retrieve_timesteps
from torch import Tensor

from glmkit.errors import UserError
from glmkit.generation.flow_matching import (
    FlowConfig,
    add_noise,
    integrate,
    mu,
    schedule,
    sequence_length,
    shift_sigma,
    times_at,
    training_times,
    velocity_target,
)

PUBLISHED = {
    "num_train_timesteps": 1000,
    "base_shift": 0.25,
    "max_shift": 0.75,
    "base_image_seq_len": 256,
    "use_dynamic_shifting": True,
    "time_shift_type": "linear",
}
CONFIG = FlowConfig()


def reference_schedule(height: int, width: int, steps: int) -> FlowMatchEulerDiscreteScheduler:
    """diffusers' scheduler after the pipeline's preparation for an image of height x width pixels."""
    scheduler = FlowMatchEulerDiscreteScheduler(**PUBLISHED)
    tokens = ((height // 8) * (width // 8)) // 4
    times = np.linspace(1000, 1.0, steps + 1)[:-1].astype(np.int64).astype(np.float32)
    shift = calculate_shift(tokens, 256, 0.25, 0.75)
    retrieve_timesteps(scheduler, steps, "cpu", times, times / 1000, mu=shift)
    return scheduler


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (1024, 1024), (2048, 2048), (32, 128), (1152, 768)])
@pytest.mark.parametrize("steps", [1, 4, 30, 50])
def test_schedule_equals_reference(size: tuple[int, int], steps: int) -> None:
    ours, reference = schedule(*size, steps, CONFIG), reference_schedule(*size, steps)
    assert torch.equal(ours.timesteps, reference.timesteps - 1)
    assert (ours.sigmas - reference.sigmas).abs().max() < 1e-6
    assert ours.sigmas[0] == 1
    assert ours.sigmas[-1] == 0


def test_every_number_of_steps_has_the_reference_times() -> None:
    """Whole times come from flooring float64 numbers, where one rounding differently would shift a time by one."""
    for steps in range(1, 1001):
        expected = np.linspace(1000, 1.0, steps + 1)[:-1].astype(np.int64)
        assert np.array_equal(schedule(256, 256, steps, CONFIG).timesteps.numpy() + 1, expected), steps


def test_euler_equals_the_reference_steps() -> None:
    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.shape == (len(latents),)
        return torch.sin(3 * latents) + timestep[:, None, None, None] / 1000

    scheduler = reference_schedule(256, 512, 12)
    noise = torch.randn(2, 4, 32, 64, generator=torch.Generator().manual_seed(0))
    expected = noise
    for t in scheduler.timesteps:
        change = velocity(expected, t.expand(2) - 1)
        expected = scheduler.step(change, t, expected, return_dict=False)[0]

    seen: list[tuple[int, int]] = []
    plan = schedule(256, 512, 12, CONFIG)

    def at_step(latents: Tensor, step: int) -> Tensor:
        return velocity(latents, plan.timesteps[step].expand(len(latents)))

    ours = integrate(at_step, noise, plan, lambda done, steps: seen.append((done, steps)))
    assert (ours - expected).abs().max() <= 1e-5
    assert seen == [(step, 12) for step in range(1, 13)]


def test_the_true_velocity_leads_back_to_the_image() -> None:
    """With the target that training uses, any number of steps lands on the clean latents."""
    generator = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    for steps in (1, 7):
        plan = schedule(64, 64, steps, CONFIG)
        result = integrate(lambda *_: velocity_target(clean, noise), noise, plan)
        assert torch.allclose(result, clean, atol=1e-5)


def test_noisy_latents_move_along_the_target() -> None:
    generator = torch.Generator().manual_seed(2)
    clean, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    assert torch.equal(add_noise(clean, noise, torch.zeros(3)), clean)
    assert torch.equal(add_noise(clean, noise, torch.ones(3)), noise)
    sigma = torch.tensor([0.1, 0.5, 0.9])
    moved = add_noise(clean, noise, sigma + 0.05) - add_noise(clean, noise, sigma)
    assert torch.allclose(moved / 0.05, velocity_target(clean, noise), atol=1e-4)


@pytest.mark.parametrize(("side", "expected"), [(512, 1.75), (1024, 3.25), (2048, 6.25)])
def test_shift_strength_of_the_published_sizes(side: int, expected: float) -> None:
    assert mu(sequence_length(side, side), CONFIG) == expected


@pytest.mark.parametrize("logit_std", [1.0, None])
def test_training_pairs_times_as_generation_does(logit_std: float | None) -> None:
    """sigma by the formula in float64 from the very timestep that the decoder is fed."""
    times = training_times(500, 512, 256, CONFIG, logit_std=logit_std, generator=torch.Generator().manual_seed(0))
    assert times.timestep.min() >= 0
    assert times.timestep.max() <= 999
    sigma = (times.timestep.double() + 1) / 1000
    strength = 0.75 * (32 * 16 / 256) ** 0.5 + 0.25
    assert (times.sigma - strength / (strength + 1 / sigma - 1)).abs().max() < 1e-6


def test_fixed_times_are_those_of_the_schedule() -> None:
    plan = schedule(512, 256, 30, CONFIG)
    times = times_at(plan.timesteps + 1, 512, 256, CONFIG)
    assert torch.equal(times.timestep, plan.timesteps)
    assert torch.equal(times.sigma, plan.sigmas[:-1])


def test_training_times_follow_the_asked_law_and_generator() -> None:
    def fractions(mean: float, std: float | None) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        times = training_times(4000, 256, 256, CONFIG, logit_mean=mean, logit_std=std, generator=generator)
        return times.timestep / 999

    before = torch.get_rng_state()
    uniform, normal = fractions(0.0, None), torch.logit(fractions(0.5, 0.8), eps=1e-6)
    assert abs(uniform.mean() - 1 / 2) < 0.02
    assert abs(uniform.var() - 1 / 12) < 0.01
    assert abs(normal.mean() - 0.5) < 0.05
    assert abs(normal.std() - 0.8) < 0.05
    assert torch.equal(fractions(0.5, 0.8), fractions(0.5, 0.8))
    assert torch.equal(before, torch.get_rng_state())


def test_shift_keeps_the_ends_and_the_order() -> None:
    sigmas = shift_sigma(torch.linspace(0, 1, 100), 4096, CONFIG)
    assert sigmas[0] == 0
    assert sigmas[-1] == 1
    assert (sigmas.diff() > 0).all()
    assert shift_sigma(torch.tensor(0.5), 4096, CONFIG) > 0.5


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_numbers_of_steps(steps: int) -> None:
    with pytest.raises(UserError, match="steps"):
        schedule(256, 256, steps, CONFIG)


def test_config_of_the_published_file() -> None:
    assert FlowConfig.from_dict(PUBLISHED) == CONFIG
    with pytest.raises(UserError, match="time_shift_type"):
        FlowConfig.from_dict(PUBLISHED | {"time_shift_type": "exponential"})
