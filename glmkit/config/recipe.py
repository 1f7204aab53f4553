"""Recipes: YAML -> dict (+ `key=value` overrides) -> typed, frozen sections.

Recipes hold values, never code. Duplicate and unknown keys are errors that name the path and the nearest known key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args, overload

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from glmkit import shipped
from glmkit.config.data import Data
from glmkit.config.section import Section, is_size
from glmkit.config.stages import AutoregressiveStage, DecoderStage, GlyphStage, Stage
from glmkit.config.values import override, read_yaml
from glmkit.errors import UserError, nearest

STAGES: dict[str, type[Stage]] = {
    "autoregressive": AutoregressiveStage,
    "decoder": DecoderStage,
    "glyph": GlyphStage,
}
# What other trainers call a key: kohya's scripts, those of diffusers, ai-toolkit.
OTHER_NAMES = {
    **dict.fromkeys(("lr", "unet_lr"), "learning_rate"),
    **dict.fromkeys(("batch_size", "train_batch_size"), "micro_batch_size"),
    **dict.fromkeys(("gradient_accumulation_steps", "gradient_accumulation"), "global_batch_size"),
    **dict.fromkeys(("max_train_steps", "train_steps"), "steps"),
    **dict.fromkeys(("save_every_n_steps", "checkpointing_steps"), "save_every"),
    **dict.fromkeys(("network_dim", "r"), "rank"),
    **dict.fromkeys(("network_alpha", "lora_alpha"), "alpha"),
    **dict.fromkeys(("train_data_dir", "instance_data_dir", "image_dir"), "train"),
    "lr_warmup_steps": "warmup_steps",
    "optimizer_type": "optimizer",
    "resolution": "size",
    "num_repeats": "repeats",
    "output_dir": "output",
    "pretrained_model_name_or_path": "model",
}


class Samples(Section):
    """Sample images of the training so far."""

    prompts: tuple[str, ...] = ()
    """What is generated, side by side in one file."""
    every: int = Field(default=0, ge=0)
    """Steps between samples; 0: at step 0 and at the end only."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels; none: the model's default."""
    steps: int | None = Field(default=None, gt=0)
    """Denoising steps; none: the model's default."""

    _size = field_validator("size", mode="before")(is_size)


class Eval(Section):
    """Evaluation before and after training: the first `limit` prompts of each split of a suite."""

    suite: str = "text-render"
    """Name of the suite, as `glmkit list` shows it."""
    limit: int = Field(default=16, gt=0)
    """Prompts per split."""
    clip: bool = False
    """Measure CLIP alignment, too."""


class Recipe(Section):
    """A fine-tuning run: its stages follow one another in the order of the model's own data flow.

    Adapters go to OUTPUT/adapter. Components that are trained without `lora` are written into OUTPUT/model, a copy of
    the model.
    """

    model: str = "nano"
    """`nano`, `glm-image`, or a model folder."""
    start_from: str | None = Field(default=None, min_length=1)
    """An adapter, or the run that made it: its components begin with these weights; none: from the model itself."""
    output: str
    """The run folder."""
    save_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of components that are trained without `lora`, in files."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of fresh weights, the order of the images, and all noise."""
    data: Data
    """Images to train on and to measure progress with."""
    autoregressive: AutoregressiveStage | None = None
    """Train the model that generates prior tokens."""
    decoder: DecoderStage | None = None
    """Train the diffusion decoder."""
    glyph: GlyphStage | None = None
    """Train the encoder of quoted texts."""
    samples: Samples = Samples()
    """Sample images of the training so far."""
    eval: Eval | None = None
    """Evaluate before and after."""
    wandb: str | None = Field(default=None, min_length=1)
    """Project of Weights & Biases that gets losses and samples."""
    license: str | None = Field(default=None, min_length=1)
    """Licence of the adapters in their model card, by its name on the hub, such as apache-2.0."""

    stage_order: ClassVar[tuple[str, ...]] = tuple(STAGES)

    @field_validator("output")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("output must name a folder")
        return value

    @model_validator(mode="after")
    def _has_stages(self) -> Self:
        if not self.stages:
            raise ValueError(f"a recipe needs at least one stage: {', '.join(self.stage_order)}")
        weights = [getattr(stage, "regularization_weight", 0) for stage in self.stages.values()]
        if self.data.has_regularization and not any(weights):
            raise ValueError(
                "data.train has regularization images, and no stage a weight for them; for example "
                "decoder.regularization_weight=1"
            )
        return self

    @model_validator(mode="after")
    def _learns_from_what_is_there(self) -> Self:
        for name, stage in self.stages.items():
            if stage.learns_from_rewards and self.data.prompts is None:
                raise ValueError(f"{name}.rl learns from prompts: data.prompts=FILE in place of data.train")
            if not stage.learns_from_rewards and self.data.prompts is not None:
                raise ValueError(f"{name} learns from images: data.train in place of data.prompts, or {name}.rl")
        return self

    @property
    def stages(self) -> dict[str, Stage]:
        """Return the stages that are there, by name, in the order in which they run."""
        return {name: stage for name in self.stage_order if (stage := getattr(self, name)) is not None}

    @property
    def is_lora_only(self) -> bool:
        """Tell whether every stage trains adapters, and none a whole component."""
        return all(stage.lora is not None for stage in self.stages.values())

    @property
    def largest_batch(self) -> int:
        """Return the most images, or prompts, of one size per step; 1 where all stages pack images of any sizes."""
        packed = (isinstance(stage, AutoregressiveStage) and stage.pack for stage in self.stages.values())
        both = zip(self.stages.values(), packed, strict=True)
        return max((stage.examples_per_step for stage, is_packed in both if not is_packed), default=1)


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


@overload
def load(path: str | Path, overrides: Iterable[str] = ()) -> Recipe: ...
@overload
def load(path: str | Path, overrides: Iterable[str], kind: type[AnyRecipe]) -> AnyRecipe: ...
def load(path: str | Path, overrides: Iterable[str] = (), kind: type[Recipe] = Recipe) -> Recipe:
    """Read a recipe, apply overrides, check everything. Raises UserError that names the key."""
    return from_dict(override(read_yaml(path), overrides), str(path), kind)


@overload
def from_dict(values: Mapping[str, Any], name: str = "recipe") -> Recipe: ...
@overload
def from_dict(values: Mapping[str, Any], name: str, kind: type[AnyRecipe]) -> AnyRecipe: ...
def from_dict(values: Mapping[str, Any], name: str = "recipe", kind: type[Recipe] = Recipe) -> Recipe:
    """Make a checked recipe of plain values; UserError lists every problem with its path."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = "\n".join(_explain(problem, kind, values) for problem in error.errors())
        fix = f"{shipped.find('recipes/README.md')} says what each key takes"
        raise UserError(f"{name} is not a valid recipe:\n{problems}", fix=fix) from error


def _explain(problem: Any, kind: type[Recipe], values: Mapping[str, Any]) -> str:
    path = [str(key) for key in problem["loc"]]
    line = f"  {'.'.join(path) or 'recipe'}: "
    if problem["type"] == "extra_forbidden":
        known = _keys_of(kind, path[:-1])
        # The same key deeper down first: `steps` is one of every stage.
        wanted = OTHER_NAMES.get(path[-1], path[-1])
        deeper = [at for at in _paths(kind) if at.startswith(".".join(path[:-1])) and at.endswith(f".{wanted}")]
        guesses = [at for at in deeper if at.split(".")[0] in values] or [nearest(wanted, known) or ""]
        hint = f"; did you mean {' or '.join(map(repr, guesses))}?" if any(guesses) else ""
        return f"{line}unknown key{hint} (known: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"{line}missing"
    if problem["type"] == "string_type" and not isinstance(problem["input"], Mapping | list):
        return f"{line}must be text; what YAML reads as something else needs quotes (found {problem['input']!r})"
    if problem["type"] == "tuple_type":
        given = str(problem["input"])  # a sentence may have commas, which would make two of it
        return f"{line}must be a list, such as [{json.dumps(given, ensure_ascii=False) if ' ' in given else given}]"
    message = problem["msg"].removeprefix("Value error, ")
    return line + message if isinstance(problem["input"], Mapping) else f"{line}{message} (found {problem['input']!r})"


def _keys_of(section: type[Section], path: list[str]) -> list[str]:
    for key in path:
        if not key.isdigit():  # an index into a list
            section = _section(section.model_fields[key].annotation) or section
    return sorted(section.model_fields)


def _section(annotation: Any) -> type[Section] | None:
    """Return the section that a key of this type may hold."""
    candidates = (annotation, *get_args(annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, Section)), None)


def _paths(section: type[Section], start: str = "") -> Iterator[str]:
    """Yield every key of a recipe, with the sections that it is in."""
    for key, field in section.model_fields.items():
        yield start + key
        if inner := _section(field.annotation):
            yield from _paths(inner, f"{start}{key}.")


def to_yaml(recipe: Recipe) -> str:
    """Write the resolved recipe as YAML, as it is saved before work starts."""
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
