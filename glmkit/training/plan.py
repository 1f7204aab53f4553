"""What a recipe would do, before anything is loaded: trained parameters, sequence lengths, memory, time.

The model is built without memory (torch's meta device) and one micro-batch of the largest bucket goes through it and
back, so that the bytes of its tensors and its FLOPs are counted, not guessed. H W pixels, T tokens, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from glmkit import config
from glmkit.config import Recipe, Stage
from glmkit.generation.denoising import upsample_prior_tokens
from glmkit.generation.sequence import Grid, grids, training_batch
from glmkit.inputs.quotes import quoted_texts
from glmkit.models import checkpoint
from glmkit.models.checkpoint import published
from glmkit.models.devices import dtype_for
from glmkit.models.hardware import matmul_flops
from glmkit.sizes import parse_size
from glmkit.training import checks, data, lora, offload, phases, quantization, rl
from glmkit.training.memory_tracker import PassCost, forward_pass_bytes, measure_pass
from glmkit.training.objectives import StageKind, stage_kinds
from glmkit.training.stage import checkpoint_gradients, trained_components

CHAT_TOKENS = 32  # of the template and the size pairs around a caption
CHARACTERS_PER_TOKEN = 3
CAPTION_CHARACTERS, GLYPH_BYTES = 240, 32  # of a caption that is not known
BYTES_PER_TRAINED = 16  # a parameter, its gradient and AdamW's two moments, all float32
GUIDED = 2  # samples that the decoder computes for one image: with conditions and without
COMPILED = 0.75  # of what autograd keeps: compiled layers compute some of it again (0.69 to 0.76 were measured)
UTILIZATION = 0.5  # of a large matrix product's FLOP/s, in a whole step
Shape = data.Kind


@dataclass(frozen=True)
class StagePlan:
    """Numbers of one stage.

    `tokens`: sequence length of each bucket. Bytes and seconds are estimates, None where they cannot be given:
    `activations` are the most that the tensors of one micro-batch take at one time, forward and back, `weights` those
    of all components that are in memory meanwhile. `phases` are the bytes of all else that the stage does (see there).
    """

    name: str
    trained: int
    parameters: int
    tokens: dict[str, int]
    weights: int
    optimizer: int
    activations: int | None
    seconds: float | None
    phases: Mapping[str, int] = field(default_factory=dict)
    round_seconds: float | None = None
    """Of the images of one round, where the stage learns from rewards; to reward them is not counted."""
    gpus: int = 1
    """How many hold the stage in shards: bytes are those of the one that takes most."""
    host_bytes: int = 0
    """What several of them take of the CPU's memory, all together; 0: not counted."""

    @property
    def bytes(self) -> int:
        """Count the bytes of memory that the steps take in all."""
        return self.weights + self.optimizer + (self.activations or 0)

    @property
    def peak(self) -> int:
        """Return the most bytes that anything in the stage takes."""
        return max([self.bytes, *self.phases.values()])


def load_data(recipe: Recipe, device: torch.device) -> data.Datasets:
    """Read every image of a recipe once; UserError for whatever is wrong with the recipe."""
    checks.settings(recipe, device)
    datasets = rl.load_data(recipe)
    checks.content(recipe, datasets[0])
    return datasets


def plan(recipe: Recipe, images: data.ImageDataset, device: torch.device) -> list[StagePlan]:
    """Plan the stages of a recipe on its training images."""
    return plan_stages(recipe, shapes_of(images), images.captions, device, stage_kinds())


def plan_stages(
    recipe: Recipe, shapes: list[Shape], captions: list[str], device: torch.device, kinds: Mapping[str, StageKind]
) -> list[StagePlan]:
    """Plan stages on images of these shapes; without captions, prompts are taken to be of default length."""
    flops = matmul_flops(device, dtype_for(device))
    return [plan_stage(name, kinds[name], recipe, shapes, captions, device, flops) for name in recipe.stages]


def shapes_of(images: data.ImageDataset) -> list[Shape]:
    """Return every shape of the images that are trained on."""
    return sorted(data.by_size(data.buckets(images)))


def component_config(recipe: Recipe, component: str) -> Mapping[str, Any]:
    """Return the config of a component, without a download of any weights."""
    if published.is_published(recipe.model):
        return cast("Mapping[str, Any]", checkpoint.PUBLISHED[checkpoint.COMPONENTS[component].folder])
    return checkpoint.config(checkpoint.resolve(recipe.model), component)


def plan_stage(
    name: str,
    kind: StageKind,
    recipe: Recipe,
    shapes: list[Shape],
    captions: list[str],
    device: torch.device,
    flops_per_second: float,
    with_phases: bool = True,
) -> StagePlan:
    """Plan one stage (see `plan_stages`); phases take longer than the rest."""
    stage = recipe.stages[name]
    kind = rl.without_image_encoders(kind) if stage.learns_from_rewards else kind
    # 1. Build the components without memory, adapted or unfrozen as the stage asks.
    with torch.device("meta"):
        modules = {
            component: checkpoint.build_component(component, component_config(recipe, component))
            for component in kind.components(name)
        }
        for module in modules.values():
            module.requires_grad_(False)
        total = count_parameters(modules[name])
        if stage.lora is not None:
            lora.inject(modules[name], stage.lora)
        else:
            modules[name].requires_grad_(True)
    weights = _weight_bytes(name, kind, stage, modules, device)
    every = [parameter for module in modules.values() for parameter in module.parameters()]
    trained = sum(parameter.numel() for parameter in every if parameter.requires_grad)

    # 2. Send a micro-batch of the largest bucket through them.
    cost = None
    if kind.transformer is not None:
        largest = max(shapes, key=lambda shape: _tokens(name, shape, captions))
        cost = _micro_batch_cost(name, kind, stage, recipe, modules, largest, captions, device)

    # 3. Count steps and bytes.
    flops = stage.steps * stage.accumulation_steps * cost.flops if cost else None
    planned = StagePlan(
        name,
        trained,
        total,
        tokens={data.kind_name(shape): _tokens(name, shape, captions) for shape in shapes},
        weights=weights,
        optimizer=trained * (BYTES_PER_TRAINED - 4 + 4 * (stage.ema > 0)),
        activations=round(cost.peak_bytes * (COMPILED if stage.compile else 1)) if cost else None,
        seconds=None if flops is None else flops / (flops_per_second * UTILIZATION),
        phases={}
        if kind.transformer is None or not with_phases
        else _phases(name, kind, stage, recipe, shapes, (weights, trained), device),
    )
    if not stage.learns_from_rewards:
        return planned
    from glmkit.training.rl.planning import with_rounds  # which counts as this module does

    return with_rounds(planned, recipe, shapes, captions, device)


def _phases(
    name: str,
    kind: StageKind,
    stage: Stage,
    recipe: Recipe,
    shapes: list[Shape],
    held: tuple[int, int],
    device: torch.device,
) -> dict[str, int]:
    """Count the bytes of all that a stage does beside its steps; `held`: bytes of weights, trained parameters."""
    weights, trained = held
    built: dict[str, nn.Module] = {}

    def component(one: str) -> nn.Module:
        if one not in built:
            with torch.device("meta"):
                module = checkpoint.build_component(one, component_config(recipe, one))
            built[one] = module.to(quantization.dtype(stage.lora, device)).requires_grad_(False)
        return built[one]

    height, width, _ = max(shapes, key=lambda shape: shape[0] * shape[1])
    found = {
        "loading": phases.loading(kind, stage, name, component),
        "precomputing": phases.precomputing(kind.encoders_of(stage), height, width, component),
        "saving": weights + trained * BYTES_PER_TRAINED,
    }
    samples = getattr(recipe, "samples", None)
    default = (height, width)
    if samples is not None and samples.prompts:
        shape = parse_size(samples.size) if samples.size else default
        resident = {kind.transformer or name, *trained_components(name, stage)}
        both = {one: component(one) for one in ("decoder", "glyph")}
        steps = forward_pass_bytes(
            lambda: decoder_loss(both, (*shape, ()), GUIDED * len(samples.prompts), list(samples.prompts)),
            (value for module in both.values() for value in module.parameters()),
        )
        low_memory = stage.lora is not None and stage.lora.is_low_memory
        taken = phases.sampling(len(samples.prompts), *shape, resident, steps, low_memory, component)
        found["samples"] = weights + trained * (BYTES_PER_TRAINED - 4) + taken
    if getattr(recipe, "eval", None) is not None:
        found["evaluation"] = phases.evaluating(*default, component)
    return {phase: taken for phase, taken in found.items() if taken}


def _micro_batch_cost(
    name: str,
    kind: StageKind,
    stage: Stage,
    recipe: Recipe,
    modules: Mapping[str, nn.Module],
    shape: Shape,
    captions: list[str],
    device: torch.device,
) -> PassCost:
    """Measure one micro-batch of a stage; autocast computes in the type of `dtype_for`."""
    assert isinstance(stage, config.BlockStage)
    assert kind.transformer is not None
    for module in modules.values():
        module.to(dtype_for(device))
    checkpoint_gradients(modules[kind.transformer], stage.gradient_checkpointing)
    if stage.lora is not None and stage.lora.base == "int8":
        quantization.keep_int8_inputs(modules[kind.transformer])
    copies = 0
    if stage.lora is None and dtype_for(device) == torch.bfloat16:  # autocast holds one of every matrix
        copies = sum(2 * value.numel() for value in modules[kind.transformer].parameters() if value.ndim > 1)
    frozen_passes = 1 + recipe.data.has_regularization if stage.regularization_weight else 0
    batch = stage.global_batch_size // stage.accumulation_steps
    if getattr(stage, "dpo", None) is not None:  # two images of each pair, and both without adapters
        frozen_passes, batch = 1, 2 * batch
    if stage.learns_from_rewards:
        frozen_passes, batch = 1, batch * getattr(stage.rl, "times_per_image", 1)  # type: ignore[attr-defined]
    cost = measure(name, modules, shape, batch, captions, frozen_passes)
    return replace(cost, peak_bytes=cost.peak_bytes + copies)


def _weight_bytes(
    name: str, kind: StageKind, stage: Stage, modules: Mapping[str, nn.Module], device: torch.device
) -> int:
    """Count the bytes of the components that a stage has in memory while it trains; adapters in float32."""
    transformer = kind.transformer or name
    resident = {transformer, *trained_components(name, stage)}  # the encoders have left
    value_bytes, total = quantization.dtype(stage.lora, device).itemsize, 0
    for component in resident:
        parameters = modules[component].parameters()
        total += sum((4 if value.requires_grad else value_bytes) * value.numel() for value in parameters)
    if stage.lora is not None:
        module = modules[transformer]
        plain, of_base = (quantization.matrix_bytes(module, base, value_bytes) for base in ("auto", stage.lora.base))
        total += of_base - plain
        if stage.lora.offload:
            total -= offload.bytes_saved(module, stage.lora.base, value_bytes)
    return total


def count_parameters(module: nn.Module) -> int:
    """Count the parameters of a module, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _prompt_tokens(captions: list[str]) -> int:
    longest = max((len(caption) for caption in captions), default=CAPTION_CHARACTERS)
    return CHAT_TOKENS + longest // CHARACTERS_PER_TOKEN


def _glyph_tokens(captions: list[str]) -> int:
    """Count the bytes of a caption's quoted texts, one more per text for its end."""
    lengths = [sum(len(span.encode()) + 1 for span in quoted_texts(caption)) for caption in captions]
    return -(-max(lengths, default=GLYPH_BYTES) // 16) * 16 or 16


def _tokens(name: str, shape: Shape, captions: list[str]) -> int:
    """Count the tokens of the longest sequence that a bucket gives the transformer of a stage."""
    height, width, conditions = shape
    large, preview = (_count(grid) for grid in (grids(height, width).large, grids(height, width).preview))
    read = sum(_count(grids(*size).large) for size in conditions)
    if name == "autoregressive":
        return _prompt_tokens(captions) + (read or preview) + large + 1
    if name in ("decoder", "glyph"):
        return _glyph_tokens(captions) + 4 * (large + read)
    return large


def _count(grid: Grid) -> int:
    return grid[0] * grid[1]


def measure(
    name: str,
    modules: Mapping[str, nn.Module],
    shape: Shape,
    batch: int,
    captions: list[str],
    frozen_passes: int = 0,
) -> PassCost:
    """Send `batch` images of one bucket forwards and backwards through modules on the meta device.

    `frozen_passes` 1: and once more without adapters; 2: as many other images with and without them, instead.
    """
    trained = [value for module in modules.values() for value in module.parameters()]
    forward = _autoregressive_loss if name == "autoregressive" else decoder_loss

    def loss() -> Tensor:
        total = forward(modules, shape, batch, captions)
        if frozen_passes == 2:
            total = total + forward(modules, shape, batch, captions)
        if frozen_passes:
            with torch.no_grad():
                forward(modules, shape, batch, captions)
        return total

    return measure_pass(loss, trained)


def _autoregressive_loss(modules: Mapping[str, nn.Module], shape: Shape, batch: int, captions: list[str]) -> Tensor:
    model = cast(Any, modules["autoregressive"])
    height, width, conditions = shape
    device = next(model.parameters()).device
    both = grids(height, width)
    order = [both.large] if conditions else [both.preview, both.large]
    prompt = [1] * (_prompt_tokens(captions) + sum(_count(grids(*size).large) for size in conditions))
    tokens = [torch.zeros(batch, *grid, dtype=torch.long) for grid in order]
    inputs = training_batch([prompt] * batch, tokens, model.config)
    logits = model(
        inputs.ids_BT.to(device), inputs.positions_3BT.to(device), logits_to_keep=inputs.target_columns_BN.to(device)
    )
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), inputs.target_ids_BN.flatten().to(device))


def decoder_loss(modules: Mapping[str, nn.Module], shape: Shape, batch: int, captions: list[str]) -> Tensor:
    """Run the decoder on images of one kind, all else of zeros; returns a loss."""
    decoder, encoder = cast(Any, modules["decoder"]), cast(Any, modules["glyph"]).encoder
    height, width, conditions = shape
    weight = next(decoder.parameters())

    def inputs(height: int, width: int) -> tuple[Tensor, Tensor]:
        latents = torch.zeros(batch, decoder.config.in_channels, height // 8, width // 8, dtype=weight.dtype)
        return latents, upsample_prior_tokens(torch.zeros(batch, *grids(height, width).large, dtype=torch.long))

    with torch.device(weight.device):
        latents, prior = inputs(height, width)
        conditional = torch.ones(batch, dtype=torch.bool)
        sizes = torch.tensor([[float(height), float(width)]]).expand(batch, 2)
        tokens = torch.zeros(batch, _glyph_tokens(captions), dtype=torch.long)
        glyph = encoder(tokens).last_hidden_state
        condition_images = None
        if conditions:
            cached = decoder.cache_condition_images([(*inputs(*size), size) for size in conditions])
            condition_images = cached.visible_where(conditional)
        timesteps, corner = torch.zeros(batch), torch.zeros_like(sizes)
        velocity: Tensor = decoder(
            latents, glyph, tokens >= 0, prior, ~conditional, timesteps, sizes, corner, condition_images
        )
    return velocity.float().square().mean()
