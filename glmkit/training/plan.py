"""What a recipe would do, before anything is loaded: trained parameters, sequence lengths, memory, time.

The model is built without memory (torch's meta device) and one micro-batch of the largest bucket goes through it and
back, so that the bytes of its tensors and its operations are counted, not guessed. H W pixels, T tokens, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from glmkit import config
from glmkit.config import Recipe, Stage
from glmkit.generation.denoising import upsample_prior_tokens
from glmkit.generation.sequence import grids, training_batch
from glmkit.models import checkpoint
from glmkit.models.checkpoint import published
from glmkit.models.glyph.model import quoted_texts
from glmkit.models.hardware import matmul_flops
from glmkit.training import checks, data, lora, offload, quantization
from glmkit.training.data import summary
from glmkit.training.memory_tracker import PassCost, measure_pass
from glmkit.training.objectives import StageKind, stage_kinds
from glmkit.training.stage import checkpoint_gradients, trained_components

CHAT_TOKENS = 32  # of the template and the size pairs around a caption
CHARACTERS_A_TOKEN = 3
TRAINED_BYTES = 16  # a parameter, its gradient and AdamW's two moments, all float32
REACHED = 0.5  # of a large matrix product's speed, in a whole step
Shape = tuple[int, int, bool]  # height, width, is edit


@dataclass(frozen=True)
class StagePlan:
    """Numbers of one stage. `tokens`: sequence length of each bucket. Bytes and seconds are estimates, None where
    nobody can tell: `activations` are the most that the tensors of one micro-batch take at one time, forward and back,
    `weights` those of all parts that are in memory meanwhile.
    """

    name: str
    trained: int
    parameters: int
    tokens: dict[str, int]
    weights: int
    optimizer: int
    activations: int | None
    seconds: float | None

    @property
    def bytes(self) -> int:
        return self.weights + self.optimizer + (self.activations or 0)


def explain(recipe: Recipe, device: torch.device) -> list[str]:
    """Tell all that can be told of a recipe before it runs: resolved values, data, and the plan of each stage.

    Images are read once. Raises UserError for whatever is wrong with the recipe.
    """
    checks.settings(recipe, device)
    datasets = data.load(recipe.data)
    checks.content(recipe, datasets[0])
    about_data = summary.lines(datasets, recipe.largest_batch)
    return [
        *config.to_yaml(recipe).splitlines(),
        "",
        *about_data,
        "",
        *lines(plan(recipe, datasets[0], device), device),
    ]


def plan(recipe: Recipe, images: data.ImageDataset, device: torch.device) -> list[StagePlan]:
    """Plan the stages of a recipe on its training images."""
    return plan_stages(recipe, shapes_of(images), images.captions, device, stage_kinds())


def plan_stages(
    recipe: Recipe, shapes: list[Shape], captions: list[str], device: torch.device, kinds: Mapping[str, StageKind]
) -> list[StagePlan]:
    """Plan stages on images of these shapes; without captions, prompts are taken to be of usual length."""
    speed = matmul_flops(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return [
        _stage(name, kinds[name], stage, recipe, shapes, captions, device, speed)
        for name, stage in recipe.stages.items()
    ]


def shapes_of(images: data.ImageDataset) -> list[Shape]:
    """Return every shape of the images that are trained on."""
    return sorted(data.by_size(data.buckets(images)))


def settings_of(recipe: Recipe, part: str) -> Mapping[str, Any]:
    """The config of a part, without a download of any weights."""
    if recipe.model in ("glm-image", published.HUB_ID):
        return cast("Mapping[str, Any]", checkpoint.PUBLISHED[checkpoint.COMPONENTS[part].folder])
    return checkpoint.config(checkpoint.resolve(recipe.model), part)


def _stage(
    name: str,
    kind: StageKind,
    stage: Stage,
    recipe: Recipe,
    shapes: list[Shape],
    captions: list[str],
    device: torch.device,
    speed: float,
) -> StagePlan:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32  # autocast computes in it
    with torch.device("meta"):
        parts = {part: checkpoint.build_component(part, settings_of(recipe, part)) for part in kind.components(name)}
        for part in parts.values():
            part.requires_grad_(False)
        total = count(parts[name])
        if stage.lora is not None:
            lora.inject(parts[name], stage.lora)
        else:
            kind.unfreeze(parts[name], stage)
    trained = sum(value.numel() for part in parts.values() for value in part.parameters() if value.requires_grad)
    weights = _weight_bytes(name, kind, stage, parts, device)
    worst = max(shapes, key=lambda shape: _tokens(name, shape, captions))
    work = None
    if kind.transformer is not None:
        for part in parts.values():
            part.to(dtype)
        block_stage = cast(config.BlockStage, stage)
        checkpoint_gradients(parts[kind.transformer], block_stage.gradient_checkpointing)
        looks = 1 + recipe.data.has_regularization if block_stage.regularization_weight else 0
        work = measure(name, parts, worst, stage.global_batch_size // stage.accumulation_steps, captions, looks)
    operations = stage.steps * stage.accumulation_steps * work.flops if work else None
    return StagePlan(
        name,
        trained,
        total,
        {_named(shape): _tokens(name, shape, captions) for shape in shapes},
        weights,
        trained * (TRAINED_BYTES - 4 + 4 * (stage.ema > 0)),
        work.peak_bytes if work else None,
        None if operations is None else operations / (speed * REACHED),
    )


def _weight_bytes(
    name: str, kind: StageKind, stage: Stage, parts: Mapping[str, nn.Module], device: torch.device
) -> int:
    """Of the parts that a stage has in memory while it trains; adapters in float32."""
    transformer = kind.transformer or name
    held = {transformer, *trained_components(name, stage)}  # the encoders have left
    each, total = quantization.dtype(stage.lora, device).itemsize, 0
    for part in held:
        total += sum((4 if value.requires_grad else each) * value.numel() for value in parts[part].parameters())
    if stage.lora is not None:
        module = parts[transformer]
        plain, own = (quantization.matrix_bytes(module, base, each) for base in ("auto", stage.lora.base))
        total += own - plain
        if stage.lora.offload:
            total -= offload.bytes_saved(module, stage.lora.base, each)
    return total


def count(module: nn.Module) -> int:
    """Parameters, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _named(shape: Shape) -> str:
    height, width, is_edit = shape
    return f"{width}x{height}{' edits' * is_edit}"


def _prompt_tokens(captions: list[str]) -> int:
    return CHAT_TOKENS + max((len(caption) for caption in captions), default=240) // CHARACTERS_A_TOKEN


def _glyph_tokens(captions: list[str]) -> int:
    """Bytes of a caption's quoted texts, one more a text for its end."""
    lengths = [sum(len(span.encode()) + 1 for span in quoted_texts(caption)) for caption in captions]
    return -(-max(lengths, default=32) // 16) * 16 or 16


def _tokens(name: str, shape: Shape, captions: list[str]) -> int:
    """The longest sequence that a bucket gives the transformer of a stage."""
    height, width, is_edit = shape
    shown = grids(height, width)
    large, preview = (rows * columns for rows, columns in (shown.large, shown.preview))
    if name == "autoregressive":
        return _prompt_tokens(captions) + (large if is_edit else preview) + large + 1
    if name in ("decoder", "glyph"):
        return _glyph_tokens(captions) + 4 * large * (1 + is_edit)
    return large


def measure(
    name: str, parts: Mapping[str, nn.Module], shape: Shape, batch: int, captions: list[str], preserving: int = 0
) -> PassCost:
    """`batch` images of one bucket forwards and backwards through parts on the meta device. `preserving` 1: and once
    more without adapters; 2: as many other images with and without them, instead.
    """
    trained = [value for part in parts.values() for value in part.parameters()]
    forward = _autoregressive if name == "autoregressive" else _decoder

    def loss() -> Tensor:
        total = forward(parts, shape, batch, captions)
        if preserving == 2:
            total = total + forward(parts, shape, batch, captions)
        if preserving:
            with torch.no_grad():
                forward(parts, shape, batch, captions)
        return total

    return measure_pass(loss, trained)


def _autoregressive(parts: Mapping[str, nn.Module], shape: Shape, batch: int, captions: list[str]) -> Tensor:
    model = cast(Any, parts["autoregressive"])
    height, width, is_edit = shape
    device = next(model.parameters()).device
    shown = grids(height, width)
    order = [shown.large] if is_edit else [shown.preview, shown.large]
    prompt = [1] * (_prompt_tokens(captions) + is_edit * shown.large[0] * shown.large[1])
    codes = [torch.zeros(batch, *grid, dtype=torch.long) for grid in order]
    inputs = training_batch([prompt] * batch, codes, model.config)
    logits = model(
        inputs.ids_BT.to(device), inputs.positions_3BT.to(device), logits_to_keep=inputs.target_columns_BN.to(device)
    )
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), inputs.target_ids_BN.flatten().to(device))


def _decoder(parts: Mapping[str, nn.Module], shape: Shape, batch: int, captions: list[str]) -> Tensor:
    decoder, encoder = cast(Any, parts["decoder"]), cast(Any, parts["glyph"]).encoder
    height, width, is_edit = shape
    where = next(decoder.parameters())
    with torch.device(where.device):
        latents = torch.zeros(batch, decoder.config.in_channels, height // 8, width // 8, dtype=where.dtype)
        prior = upsample_prior_tokens(torch.zeros(batch, *grids(height, width).large, dtype=torch.long))
        told = torch.ones(batch, dtype=torch.bool)
        sizes = torch.tensor([[float(height), float(width)]]).expand(batch, 2)
        tokens = torch.zeros(batch, _glyph_tokens(captions), dtype=torch.long)
        glyph = encoder(tokens).last_hidden_state
        sources = (
            decoder.cache_condition_images([(latents, prior, (height, width))]).visible_where(told) if is_edit else None
        )
        steps, corner = torch.zeros(batch), torch.zeros_like(sizes)
        velocity = decoder(latents, glyph, tokens >= 0, prior, ~told, steps, sizes, corner, sources)
    return velocity.float().square().mean()


def lines(stages: list[StagePlan], device: torch.device) -> list[str]:
    """For people."""
    shown, here = [], torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    for stage in stages:
        share = _percent(stage.trained / stage.parameters)
        shown.append(f"{stage.name}: {stage.trained:,} of {stage.parameters:,} parameters are trained ({share})")
        lengths = ", ".join(f"{shape}: {tokens}" for shape, tokens in stage.tokens.items())
        shown.append(f"  tokens an image at most: {lengths}")
        parts = f"weights {_bytes(stage.weights)}, gradients and optimizer {_bytes(stage.optimizer)}"
        if stage.activations is None or stage.seconds is None:
            shown.append(f"  memory: {parts}, and what the activations need; time: not estimated")
        else:
            parts = f"{parts}, activations {_bytes(stage.activations)}"
            shown.append(f"  memory: about {_bytes(stage.bytes)} ({parts}) beside what Python and torch take")
            shown.append(f"  time: about {duration(stage.seconds)}, an estimate for {here}")
    return shown


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size > 2**29 else f"{size / 2**20:.1f} MiB"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share >= 1e-5 else "less than 0.001 %"


def duration(seconds: float) -> str:
    """For people."""
    for unit, size, decimals in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{decimals}f} {unit}"
    return f"{seconds:.0f} s"
