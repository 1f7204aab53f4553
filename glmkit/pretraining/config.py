"""Recipes of pretraining: those of fine-tuning, and what only models from fresh weights need. Never imports torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from glmkit import config
from glmkit.config import AutoregressiveStage, Data, DecoderStage, Recipe, Section, Stage
from glmkit.config.section import is_size
from glmkit.config.values import assign, override, read_yaml
from glmkit.errors import UserError, unknown
from glmkit.sizes import parse_size

MAX_POSTERS = 10_000_000  # each is described before any is rendered
NO_EDITS = ("vae", "semantic_vq", "clip")  # stages that read captions as descriptions, or no condition images


class PosterData(Section):
    """Posters of `glmkit.posters` that are rendered when they are asked for."""

    count: int = Field(gt=0, le=MAX_POSTERS)
    """How many there are."""
    validation: int = Field(default=256, gt=0, le=MAX_POSTERS)
    """How many more there are to measure progress with, of words that training never shows."""
    size: str | Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)] = "256x256"
    """WIDTHxHEIGHT in pixels, or several sizes with the share of each: `{256x256: 3, 320x192: 1}`."""
    world: Literal["plain", "everyday"] = "plain"
    """Whose scenes: `glmkit.posters.grammar`, or `glmkit.posters.everyday`."""
    seed: int = 0
    """Seed of the scenes."""
    workers: int = Field(default=0, ge=0)
    """Processes that render; 0: one per core."""

    _size = field_validator("size", mode="before")(lambda value: value if isinstance(value, dict) else is_size(value))

    @property
    def shares(self) -> dict[tuple[int, int], float]:
        """(height, width) of every size, and which share of the posters has it; UserError for what is no size."""
        sizes = {self.size: 1.0} if isinstance(self.size, str) else self.size
        return {parse_size(size): share / sum(sizes.values()) for size, share in sizes.items()}


class PretrainData(Data):
    """Images from files, or posters, or edits of posters, or the last two together.

    With `posters` beside them, edits make up edits / (posters + 2 edits) of the images.
    """

    prompts: None = None
    """Pretraining learns from images."""
    posters: PosterData | None = None
    """Posters with captions."""
    edits: PosterData | None = None
    """Pairs of posters: the first is trained with its caption, the second as an edit of the first."""

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if (not self.train) == (self.posters is None and self.edits is None):
            raise ValueError("give either data.train (a folder) or data.posters/data.edits, not both and not neither")
        return self


class FullStage(Stage):
    """A stage that trains a whole component."""

    lora: None = None
    """There are no adapters for it."""


class VaeStage(FullStage):
    """Pixels -> latents -> pixels."""

    crop: int = Field(default=128, gt=0, multiple_of=8)
    """Side in pixels of the random crops that are trained on."""
    kl_weight: float = Field(default=1e-6, ge=0)
    """Weight of the Kullback-Leibler divergence of the latents from a standard normal distribution."""
    edge_weight: float = Field(default=0.5, ge=0)
    """Weight of the L1 loss on differences of neighbouring pixels."""
    text_weight: float = Field(default=0.0, ge=0)
    """Extra weight of pixels that carry text, where that is known."""
    recolour: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops that get other colours at random."""


class SemanticVqStage(FullStage):
    """The semantic tokenizer: tokens must tell the caption (without its quoted words) and a coarse image."""

    caption_weight: float = Field(default=1.0, ge=0)
    """Weight of the captioner's cross-entropy."""
    shape_weight: float = Field(default=0.0, ge=0)
    """Weight of naming the kind of shape at each position."""
    text_weight: float = Field(default=0.0, ge=0)
    """Weight of telling characters apart at each position, so that tokens say which text stands where."""
    ink_weight: float = Field(default=0.0, ge=0)
    """Weight of the colour that differs most from the background at each position: of letters, lines and shapes."""
    commitment: float = Field(default=0.25, ge=0)
    """Weight of the commitment loss (arXiv:1711.00937)."""
    revive_every: int = Field(default=50, gt=0)
    """Steps between replacing codebook entries that nothing uses."""
    codebook_decay: float = Field(default=0.97, gt=0, lt=1)
    """Decay of the averages that the codebook follows."""


class ClipStage(FullStage):
    """A small CLIP: an image and its caption get similar features, and no others of the batch."""


class PretrainAutoregressiveStage(AutoregressiveStage):
    """The fine-tuning stage, and whether there is a preview at all."""

    preview: bool = True
    """False: the large grid at once, which `generate` cannot generate from."""


class PretrainDecoderStage(DecoderStage):
    """The fine-tuning stage, with other priors and auxiliary losses."""

    glyphs: bool = True
    """False: the decoder never gets the quoted texts."""
    prior_noise: float = Field(default=0.0, ge=0, le=1)
    """Share of the prior tokens that are replaced by random ones."""
    prior_stretch: float = Field(default=0.0, ge=0, lt=1)
    """Half of the priors are of the image stretched: so much wider or narrower at most."""
    prior_misspelt: float = Field(default=0.0, ge=0, le=1)
    """Share of the priors that are of the image with misspelt texts, so that letters come from the glyph encoder."""
    character_weight: float = Field(default=0.0, ge=0)
    """Weight of naming the letter or shape at each latent position."""
    character_position_weight: float = Field(default=0.0, ge=0)
    """Weight of telling each glyph token's position in its text."""
    glyph_character_weight: float = Field(default=0.0, ge=0)
    """Weight of telling from each glyph token which character it is part of."""

    head_weights: ClassVar[tuple[str, ...]] = (
        "character_weight",
        "character_position_weight",
        "glyph_character_weight",
    )
    whole_batch_keys: ClassVar[tuple[str, ...]] = (*DecoderStage.whole_batch_keys, *head_weights)

    @model_validator(mode="after")
    def _heads_are_trained(self) -> Self:
        asked = [name for name in self.head_weights if getattr(self, name)]
        if asked and not self.train_glyph:
            raise ValueError(f"{' and '.join(asked)} need train_glyph: they align the two while they are new")
        return self


class PretrainRecipe(Recipe):
    """A pretraining run. A CLIP is a model of its own: its `model` is a folder in open_clip's format."""

    architecture: str | None = None
    """A file of sizes from which `model` is made when it does not exist yet."""
    save: str | None = None
    """The model folder that trained components are written into; none: OUTPUT/model, a copy of `model`."""
    data: PretrainData
    vae: VaeStage | None = None
    """Train the VAE."""
    semantic_vq: SemanticVqStage | None = None
    """Train the semantic tokenizer."""
    autoregressive: PretrainAutoregressiveStage | None = None
    decoder: PretrainDecoderStage | None = None
    clip: ClipStage | None = None
    """Train a CLIP."""
    eval: None = None
    """Only fine-tuning is evaluated before and after."""

    stage_order: ClassVar[tuple[str, ...]] = ("vae", "semantic_vq", "autoregressive", "decoder", "glyph", "clip")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.clip and (len(self.stages) > 1 or self.samples.prompts):
            raise ValueError("clip trains another model than the other stages, and generates nothing: it stands alone")
        unable = [name for name in self.stages if name in NO_EDITS]
        if self.data.edits and unable:
            raise ValueError(f"{unable[0]} cannot learn from data.edits, whose captions describe no image")
        return self


def load(path: str | Path, overrides: Iterable[str] = (), phase: str | None = None) -> dict[str, PretrainRecipe]:
    """Read the recipes of a file by phase, in order; one without phases has the name "". UserError names the key.

    `phases` maps names to keys as the command line takes them, `decoder.steps: 50`, which change what stands above
    them. The run of a phase goes into OUTPUT/NAME. `overrides` hold for all of them; with `phase`, only that one is
    returned.
    """
    values, given = read_yaml(path), list(overrides)
    phases = values.pop("phases", None)
    if phases is None:
        if phase is not None:
            raise UserError(f"{path} has no phases", found=f"--phase {phase}")
        return {"": config.from_dict(override(values, given), str(path), PretrainRecipe)}
    if not isinstance(phases, dict) or not phases:
        raise UserError(f"{path}: phases must name one or more", found=phases, fix="phases: {small: {vae.steps: 9}}")
    recipes = {}
    for name, changes in phases.items():
        if not re.fullmatch(r"\w+", str(name)) or not isinstance(changes, dict):
            raise UserError(
                f"{path}: a phase is a word, and keys with their values",
                found=f"{name}: {changes}",
                fix="small: {vae.steps: 9}",
            )
        changed = override(assign(values, ((str(key), value) for key, value in changes.items())), given)
        if isinstance(changed.get("output"), str):
            changed["output"] = str(Path(changed["output"]) / str(name))
        recipes[str(name)] = config.from_dict(changed, f"{path}, phase {name},", PretrainRecipe)
    if phase is None:
        return recipes
    if phase not in recipes:
        raise unknown("phase", phase, recipes)
    return {phase: recipes[phase]}


def from_dict(values: Mapping[str, Any], name: str = "recipe") -> PretrainRecipe:
    """Make a checked pretraining recipe of plain values; UserError lists every problem with its path."""
    return config.from_dict(values, name, PretrainRecipe)
