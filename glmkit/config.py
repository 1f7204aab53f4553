"""Recipes: YAML -> dict (+ `key=value` overrides) -> typed, frozen sections.

Recipes hold values, never code. Duplicate and unknown keys are errors that name the path and the nearest known key.
This module never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from glmkit.errors import UserError, nearest
from glmkit.values import merged, override, read_yaml


class Section(BaseModel):
    """A recipe section: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Posters(Section):
    """Training images drawn on the fly by `glmkit.posters` instead of files.

    `size` is WIDTHxHEIGHT in pixels, or several sizes with the share of each: `{256x256: 3, 320x192: 1}`.
    """

    count: int = Field(gt=0)
    validation: int = Field(default=256, gt=0)
    size: str | dict[str, Annotated[float, Field(gt=0)]] = "256x256"
    wide: float = Field(default=0.0, ge=0, le=1, description="share with twice as many colours, and frames")
    aligned: float = Field(default=0.0, ge=0, le=1, description="share whose lines stand at the left or right edge")
    seed: int = 0
    workers: int = Field(default=0, ge=0, description="processes that draw; 0 means one a core")

    @property
    def shares(self) -> dict[tuple[int, int], float]:
        """(height, width) of every size, and which part of the posters has it; UserError for what is no size."""
        sizes = {self.size: 1.0} if isinstance(self.size, str) else self.size
        return {parse_size(size): share / sum(sizes.values()) for size, share in sizes.items()}


class Source(Section):
    """One place with training images: a folder, a parquet file, or OWNER/NAME:SPLIT of the hub."""

    path: str
    repeats: int = Field(default=1, gt=0, description="times an epoch shows each image")
    regularization: bool = Field(
        default=False, description="nothing is learnt from these images: what is generated for them stays as it is"
    )


class Columns(Section):
    """What the columns of a table are called; `image` is that of parquet and arrow, JSON lines have `file_name`."""

    image: str = "image"
    caption: str = "text"
    condition_image: str = Field(
        default="condition_image", description="the image that the caption, an instruction, changes"
    )
    boxes: str = Field(default="text_boxes", description="lists of left, top, right, bottom in pixels")
    mask: str = Field(default="mask", description="an image that is white where text stands")


class Reading(Section):
    """How files become training images, whose sides are multiples of 32. Nothing is scaled up or mirrored."""

    size: str | None = Field(
        default=None, description="WIDTHxHEIGHT: the most pixels of an image; larger ones are scaled down, any aspect"
    )
    fit: Literal["crop", "exact"] = Field(default="crop", description="crop around the centre, or refuse what would be")
    on_bad_image: Literal["error", "skip"] = Field(default="error", description="what to do with broken images")
    columns: Columns = Columns()

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        try:
            if value is not None and min(parse_size(value)) < 32:
                raise ValueError("an image has at least 32x32 pixels")
        except UserError as error:
            raise ValueError(error.what) from error
        return value


class Data(Reading):
    """Either images from files, or synthetic posters, or edits of posters.

    `train` is one place or a list of them: folders with `metadata.jsonl` or `.txt` captions, parquet files, datasets.
    `edits` counts pairs: the source is trained as a poster with its caption, the target as an edit. With `posters`
    beside them, edits make up edits / (posters + 2 edits) of the images.
    """

    train: tuple[Source, ...] = ()
    validation: str | None = None
    posters: Posters | None = None
    edits: Posters | None = None
    gpu_cache_gib: float = Field(
        default=1.0, ge=0, description="GiB of latents, codes and the like that stay on the device"
    )

    @field_validator("train", mode="before")
    @classmethod
    def _as_sources(cls, value: Any) -> Any:
        places = [value] if isinstance(value, (str, Mapping)) else value
        if not isinstance(places, (list, tuple)):
            return () if places is None else places
        return tuple({"path": place} if isinstance(place, str) else place for place in places)

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (not self.train) == (self.posters is None and self.edits is None):
            raise ValueError("give either data.train (a folder) or data.posters/data.edits, not both and not neither")
        if self.edits and (self.edits.wide or self.edits.aligned):
            raise ValueError("data.edits are of the plain poster world: only data.posters can be wide or aligned")
        if self.train and self.validation is None:
            raise ValueError("data.validation (a folder) is missing: without it nobody can see over-fitting")
        if self.train and all(source.regularization for source in self.train):
            raise ValueError("every entry of data.train says regularization, so there is nothing to learn")
        return self

    @property
    def has_regularization(self) -> bool:
        """Whether there are regularization images, which nothing is learnt from."""
        return any(source.regularization for source in self.train)


class Lora(Section):
    """LoRA through PEFT. `targets` are endings of module names.

    `rank_pattern` and `alpha_pattern` say otherwise for some of them. `base` is how the frozen weights are held: auto
    is bfloat16 on a GPU and float32 on a CPU; nf4 (4 bits), int8 and fp8 hold the matrices of numbered layers so.
    """

    rank: int = Field(default=16, gt=0)
    alpha: int = Field(default=16, gt=0)
    rank_pattern: dict[str, PositiveInt] = {}
    alpha_pattern: dict[str, PositiveInt] = {}
    dora: bool = Field(default=False, description="lengths and directions of weights apart (DoRA, arXiv:2402.09353)")
    base: Literal["auto", "float32", "bfloat16", "nf4", "int8", "fp8"] = "auto"
    offload: bool = Field(
        default=False, description="frozen blocks wait in the CPU's memory, and come to the GPU one ahead of their use"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Lora:
        if self.dora and (self.base == "fp8" or self.offload):
            raise ValueError("dora needs the lengths of weights, which cannot be read with base: fp8 or offload: true")
        if self.offload and self.base in ("nf4", "int8"):
            raise ValueError(f"offload: true needs a base that is moved as it is, such as fp8; not {self.base}")
        return self


class Stage(Section):
    """What the one training loop needs to know, whatever it trains."""

    lora: Lora | None = Field(default=None, description="what adapters are trained; none: the whole component")
    steps: int = Field(gt=0)
    global_batch_size: int = Field(gt=0)
    micro_batch_size: int | None = Field(
        default=None, gt=0, description="images per forward pass, a divisor of global_batch_size; none: all of them"
    )
    equal_pixels: bool = Field(
        default=False, description="fewer of the larger images a batch: the pixels of global_batch_size of the smallest"
    )
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay_fraction: float = Field(default=0.3, ge=0, le=1, description="last part of the steps, linear to zero")
    weight_decay: float = Field(default=0.01, ge=0)
    beta2: float = Field(default=0.99, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "muon"] = Field(
        default="adamw",
        description="muon: AdamW for everything but the matrices of numbered layers; prodigy: with learning_rate 1",
    )
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of the averaged weights that are saved; 0 is off")
    compile: bool = False
    validation_every: int = Field(default=0, ge=0, description="steps between validation losses; 0: start and end only")
    save_every: int = Field(
        default=0, ge=0, description="steps between resumable states and exported weights; 0: at the end"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.compile and self.lora is not None and self.lora.offload:
            raise ValueError("compile: true needs weights that stay where they are; not lora.offload: true")
        if self.optimizer == "prodigy" and self.learning_rate < 0.01:
            raise ValueError(f"prodigy finds its rate itself, times learning_rate: 1, not {self.learning_rate:g}")
        if self.micro_batch_size is not None and self.global_batch_size % self.micro_batch_size:
            sizes = f"global_batch_size {self.global_batch_size} is not a multiple of"
            raise ValueError(f"{sizes} micro_batch_size {self.micro_batch_size}")
        return self

    @property
    def accumulation_steps(self) -> int:
        """Forward passes whose gradients make up one optimizer step."""
        return self.global_batch_size // (self.micro_batch_size or self.global_batch_size)


class VaeStage(Stage):
    """Pixels -> latents -> pixels. `crop` is the side in pixels of the random crops that are trained on."""

    lora: None = None
    crop: int = Field(default=128, gt=0, multiple_of=8)
    kl_weight: float = Field(default=1e-6, ge=0)
    edge_weight: float = Field(default=0.5, ge=0, description="weight of the L1 loss on pixel differences")
    text_weight: float = Field(default=0.0, ge=0, description="extra weight of pixels that carry text, where known")
    recolour: float = Field(default=0.0, ge=0, le=1, description="share of the crops that get other colours at random")
    train_encoder: bool = Field(default=True, description="false: latents stay, and only the way back is learnt")


class SemanticStage(Stage):
    """Semantic tokenizer: codes must tell the caption (without its quoted words) and a coarse image."""

    lora: None = None
    caption_weight: float = Field(default=1.0, ge=0)
    shape_weight: float = Field(default=0.0, ge=0, description="weight of naming the kind of shape at each place")
    commitment: float = Field(default=0.25, ge=0)
    revive_every: int = Field(default=50, gt=0, description="steps between replacing codes that nobody uses")
    codebook_decay: float = Field(default=0.97, gt=0, lt=1)


class BlockStage(Stage):
    """A stage whose gradient goes through the numbered layers of a transformer."""

    gradient_checkpointing: int = Field(
        default=0, ge=0, description="1: every layer keeps its inputs only, and computes again; N: every Nth; 0: none"
    )
    regularization_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the distance to the model without adapters (prior preservation), on the images of a "
        "step or on those of data.train that say regularization",
    )

    @model_validator(mode="after")
    def _has_adapters(self) -> BlockStage:
        if self.regularization_weight and self.lora is None:
            raise ValueError(
                "regularization_weight needs a lora section; without adapters nothing remembers what was before"
            )
        return self


class AutoregressiveStage(BlockStage):
    """Next-token prediction over preview, large grid and end; the image positions only."""

    preview: bool = Field(default=True, description="false: the large grid at once, which `generate` cannot draw from")
    preview_weight: float = Field(default=1.0, ge=0)
    caption_dropout: float = Field(
        default=0.0, ge=0, le=1, description="share of the images that are learnt without a caption"
    )
    pack: bool = Field(default=False, description="images of all sizes in one row, without padding")

    @model_validator(mode="after")
    def _fits_together(self) -> AutoregressiveStage:
        if self.pack and self.equal_pixels:
            raise ValueError("pack puts images of all sizes into a batch, equal_pixels batches those of one size")
        return self


class DecoderStage(BlockStage):
    """Flow matching on latents, with the image's own tokens as prior (teacher forcing)."""

    train_glyph: bool = False
    glyphs: bool = Field(default=True, description="false: the decoder is never told the quoted texts")
    caption_dropout: float = Field(
        default=0.1, ge=0, le=1, description="joint drop of prior and glyph text, for guidance"
    )
    prior_token_drop: float = Field(default=0.0, ge=0, le=1, description="drop of the prior alone")
    prior_noise: float = Field(default=0.0, ge=0, le=1, description="share of prior ids replaced by random codes")
    prior_stretch: float = Field(
        default=0.0, ge=0, lt=1, description="half of the priors are of the image so much wider or narrower at most"
    )
    text_weight: float = Field(
        default=0.0, ge=-1, description="extra weight of latents that carry text; -1: none of the loss is on text"
    )
    other_weight: float = Field(
        default=1.0, ge=0, description="weight of latents without text; 0: all of the loss is on text"
    )
    character_weight: float = Field(
        default=0.0, ge=0, description="weight of naming the letter or shape at each place on the canvas"
    )
    character_position_weight: float = Field(
        default=0.0, ge=0, description="weight of telling each glyph token's place in its text"
    )
    logit_std: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _glyph_is_saved(self) -> DecoderStage:
        if self.train_glyph and self.lora is not None:
            raise ValueError("train_glyph needs a stage without lora; the glyph stage adapts the glyph encoder")
        if (self.character_weight or self.character_position_weight) and not self.train_glyph:
            raise ValueError(
                "character_weight and character_position_weight need train_glyph: they align the two while they are new"
            )
        if self.text_weight == -1 and self.other_weight == 0:
            raise ValueError("text_weight: -1 and other_weight: 0 leave nothing to learn")
        return self


class GlyphStage(DecoderStage):
    """The glyph encoder alone, by the decoder's loss: the decoder, adapted before or not, stays as it is."""

    lora: Lora

    @model_validator(mode="after")
    def _texts_are_told(self) -> GlyphStage:
        if not self.glyphs:
            raise ValueError("without glyphs the glyph encoder learns nothing")
        return self


class ClipStage(Stage):
    """A small CLIP: an image and its caption shall have similar features, and no others of the batch."""

    lora: None = None


class Samples(Section):
    """Images drawn at step 0 and every `every` steps (0: start and end only)."""

    prompts: tuple[str, ...] = ()
    every: int = Field(default=0, ge=0)
    size: str | None = None
    steps: int | None = Field(default=None, gt=0)


class Eval(Section):
    """Evaluation before and after training: the first `limit` prompts of each split of a suite."""

    suite: str = "text-render"
    limit: int = Field(default=16, gt=0)
    clip: bool = Field(default=False, description="CLIP alignment, too")


STAGES: dict[str, type[Stage]] = {
    "vae": VaeStage,
    "semantic_vq": SemanticStage,
    "autoregressive": AutoregressiveStage,
    "decoder": DecoderStage,
    "glyph": GlyphStage,
    "clip": ClipStage,
}


EDITING = ("autoregressive", "decoder", "glyph")  # the stages that read source images


class Recipe(Section):
    """A whole training run. Stages run in the order of the system's own data flow.

    `output` is the run folder. Adapters go to OUTPUT/adapter; parts trained without `lora` are written into the
    model folder `save` (default OUTPUT/model, a copy of `model`). `architecture` names a file of sizes from which
    `model` is made when it does not exist yet. A `clip` is a model of its own: its `model` is a folder in open_clip's
    format, and a recipe that trains one has no other stage and no samples.
    """

    model: str = "nano"
    architecture: str | None = None
    output: str
    save: str | None = None
    save_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 0
    data: Data
    vae: VaeStage | None = None
    semantic_vq: SemanticStage | None = None
    autoregressive: AutoregressiveStage | None = None
    decoder: DecoderStage | None = None
    glyph: GlyphStage | None = None
    clip: ClipStage | None = None
    samples: Samples = Samples()
    eval: Eval | None = None
    wandb: str | None = Field(
        default=None, min_length=1, description="project of Weights & Biases that gets the losses"
    )

    @field_validator("output")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("output must name a folder")
        return value

    @model_validator(mode="after")
    def _some_stage(self) -> Recipe:
        if not self.stages:
            raise ValueError(f"a recipe needs at least one stage: {', '.join(STAGES)}")
        if self.clip and (len(self.stages) > 1 or self.samples.prompts):
            raise ValueError("clip trains another model than the other stages, one that draws nothing: it stands alone")
        if self.eval and (self.clip or self.architecture):
            raise ValueError("eval compares with what was there before: leave it out for a new model and for clip")
        if self.eval and self.save == self.model:
            raise ValueError("eval needs the model as it was: save must name another folder than model")
        weights = [getattr(stage, "regularization_weight", 0) for stage in self.stages.values()]
        if self.data.has_regularization and not any(weights):
            raise ValueError(
                "data.train has regularization images, and no stage a weight for them; for example "
                "decoder.regularization_weight=1"
            )
        unable = [name for name in self.stages if name not in EDITING]
        if self.data.edits and unable:
            raise ValueError(f"{unable[0]} cannot learn from data.edits, whose captions describe no image")
        return self

    @property
    def stages(self) -> dict[str, Stage]:
        return {name: stage for name in STAGES if (stage := getattr(self, name)) is not None}

    @property
    def largest_batch(self) -> int:
        return max(stage.global_batch_size for stage in self.stages.values())


def load(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, apply overrides, check everything. Raises UserError that names the key.

    What a file says under `nano`, by the names of the recipe, holds where the model is nano; overrides win.
    """
    values, given = read_yaml(path), list(overrides)
    small = values.pop("nano", {})
    if not isinstance(small, Mapping):
        raise UserError(f"{path}: nano must hold what is different for nano", found=small, fix="nano: {seed: 1}")
    if override(values, given).get("model", "nano") == "nano":
        values = merged(values, small)
    return from_dict(override(values, given), str(path))


def from_dict(values: Mapping[str, Any], name: str = "recipe") -> Recipe:
    """A checked Recipe from plain values; UserError lists every problem with its path."""
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{name} is not a valid recipe:\n" + "\n".join(map(_explain, error.errors()))) from error


def _explain(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    line = f"  {'.'.join(path) or 'recipe'}: "
    if problem["type"] == "extra_forbidden":
        known = _keys_of(path[:-1])
        guess = nearest(path[-1], known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        return f"{line}unknown key{hint} (known: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"{line}missing"
    if problem["type"] == "tuple_type":
        return f"{line}must be a list, such as [{problem['input']}]"
    message = problem["msg"].removeprefix("Value error, ")
    return line + message if isinstance(problem["input"], Mapping) else f"{line}{message} (found {problem['input']!r})"


def _keys_of(path: list[str]) -> list[str]:
    section: Any = Recipe
    for key in path:
        if not key.isdigit():  # a place in a list
            annotation = section.model_fields[key].annotation
            kinds = (annotation, *get_args(annotation))
            section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    return sorted(section.model_fields)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, as it is saved before work starts."""
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def parse_size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` in pixels -> (height, width). Raises UserError when it is not of that form."""
    width, x, height = text.lower().partition("x")
    if not x or not width.isdigit() or not height.isdigit():
        raise UserError("a size is WIDTHxHEIGHT in pixels", found=text, fix="--size 256x256")
    return int(height), int(width)
