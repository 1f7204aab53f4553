"""Images that a GLM-Image model or a baseline generates for a run, one `Generation` each in images.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.evaluation.baseline_images import BaselineGenerator
from glmkit.evaluation.baselines import Baseline
from glmkit.evaluation.plan import GenerationSettings
from glmkit.evaluation.rewriting.rewrite import Rewrites, put_into
from glmkit.generation.batch import ImageGenerator, generate_many
from glmkit.generation.images import is_whole_image
from glmkit.generation.options import InferenceOptions
from glmkit.progress import stage_bars
from glmkit.records import Generation, Prompt

if TYPE_CHECKING:
    import torch

    from glmkit.models.hybrid import HybridModel


def generate_images(
    folder: Path,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    device: str,
    condition_images: Mapping[str, tuple[str, ...]],
    options: InferenceOptions | None = None,
    baseline: Baseline | None = None,
    model: HybridModel | None = None,
    rewrites: Rewrites | None = None,
) -> list[Generation]:
    """Generate the images that the run folder lacks; returns a record per prompt and seed, in their order.

    `condition_images` are the images to edit, by prompt id. A `baseline` or a loaded `model` generates instead of the
    model that `settings` names. The run's manifest holds the weights, so an image that exists is that of its request.
    `rewrites` are what the model gets instead of prompts, by their ids.
    """
    pairs = [(prompt, seed) for prompt in prompts for seed in settings.seeds_of(prompt)]
    requests = [settings.request(prompt, seed, condition_images.get(prompt.id, ())) for prompt, seed in pairs]
    prompt_ids = {request.id: prompt.id for request, (prompt, _) in zip(requests, pairs, strict=True)}
    failed: dict[str, Exception] = {
        request.id: UserError(prompt.error)
        for request, (prompt, _) in zip(requests, pairs, strict=True)
        if prompt.error is not None
    }
    originals = {request.id: request.prompt for request in requests}
    rewritten = {name: rewrites[of] for name, of in prompt_ids.items() if of in rewrites} if rewrites else {}
    requests, failed = put_into(requests, rewritten, failed)
    with stage_bars(disable=not ProcessGroup.from_environment().is_main) as bars:

        def load_generator() -> ImageGenerator:
            if baseline is not None:
                at = _start_measuring(device) if baseline.is_local else None
                baseline.prepare(device, settings.dtype, options or InferenceOptions())
                return BaselineGenerator(baseline, settings.model, at)
            from glmkit.generation.hybrid_generator import HybridGenerator
            from glmkit.generation.loading import components_for, load_model

            _start_measuring(device)
            if model is not None:
                return HybridGenerator(
                    model, progress=bars.update, prior_tokens=None if options is None else options.prior_tokens
                )
            components = components_for(requests)
            name, precision = settings.model, settings.precision
            hybrid = load_model(name, device, settings.dtype, settings.adapters, options, components, precision)
            return HybridGenerator(hybrid, progress=bars.update)

        images = generate_many(
            requests,
            folder,
            load_generator,
            file_name=lambda request: f"images/{request.id}.png",
            is_complete=lambda path, _: is_whole_image(path),
            failed=failed,
            prompt_ids=prompt_ids,
            originals=originals,
            bars=bars,
        )
    return [_with_cause(record, "prompt" if record.id in failed else "generation") for record in images.records]


def _start_measuring(device: str) -> torch.device:
    """Count the peak of a GPU's memory from now on, the model included; returns the device of this process."""
    from glmkit.generation.loading import device_of_rank
    from glmkit.models.hardware import reset_peak_memory

    at = device_of_rank(device)
    reset_peak_memory(at)
    return at


def _with_cause(record: Generation, cause: str) -> Generation:
    """Return the record; where it has an error, with the step that it happened in."""
    return replace(record, error=f"{cause}: {record.error}") if record.error else record
