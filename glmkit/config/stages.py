"""Sections `autoregressive`, `decoder` and `glyph`: what is trained, for how long, and by which loss."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from glmkit.config.dpo import AutoregressiveDpo, DecoderDpo
from glmkit.config.rl import AutoregressiveRl, DecoderRl, Rl
from glmkit.config.section import Section


class Lora(Section):
    """Low-rank adapters (LoRA, arXiv:2106.09685) through PEFT, on frozen weights."""

    rank: int = Field(default=16, gt=0)
    """Inner width of an adapter's two matrices."""
    alpha: int = Field(default=16, gt=0)
    """Scale of what adapters add: alpha / rank."""
    rank_pattern: dict[str, PositiveInt] = {}
    """Other ranks for some modules, by the ending of their names."""
    alpha_pattern: dict[str, PositiveInt] = {}
    """Other alphas for some modules, by the ending of their names."""
    dora: bool = False
    """Train lengths and directions of weights apart (DoRA, arXiv:2402.09353)."""
    base: Literal["auto", "float32", "bfloat16", "nf4", "int8", "fp8", "fp8-compute"] = "auto"
    """Data type of the frozen weights: auto is bfloat16 on a GPU that has it, else float32; nf4 (4 bits), int8 and fp8
    are for the matrices of numbered layers. fp8-compute multiplies in 8 bits, too, on GPUs that can: quicker, in the
    memory of bfloat16."""
    offload: bool = False
    """Keep frozen blocks in the CPU's memory; each comes to the GPU while the one before it computes."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of what goes into an adapter."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Which modules get adapters, by the ending of their names."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dora and (self.base in ("fp8", "fp8-compute") or self.offload):
            raise ValueError("dora needs the lengths of weights, which cannot be read with base: fp8 or offload: true")
        if self.offload and self.base in ("nf4", "int8", "fp8-compute"):
            raise ValueError(f"offload: true needs a base that is moved as it is, such as fp8; not {self.base}")
        return self

    @property
    def is_low_memory(self) -> bool:
        """Tell whether time is spent for memory: weights are quantized, or wait elsewhere."""
        return self.offload or self.base in ("nf4", "int8", "fp8")


class Stage(Section):
    """Hold what the one training loop needs to know, whatever it trains."""

    lora: Lora | None = None
    """Train adapters; without this section the whole component is trained."""
    steps: int = Field(gt=0)
    """Optimizer steps."""
    global_batch_size: int = Field(gt=0)
    """Images per optimizer step, of all processes together."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Images per forward pass, a divisor of `global_batch_size`; none: all of them at once."""
    equal_pixels: bool = False
    """Put fewer of the larger images into a batch: as many pixels as `global_batch_size` of the smallest have."""
    learning_rate: float = Field(gt=0)
    """Learning rate after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of the linear warm-up."""
    decay_fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps, at the end, in which the learning rate falls linearly to zero."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of matrices; vectors have none."""
    beta2: float = Field(default=0.99, gt=0, lt=1)
    """Decay of Adam's second moment."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Norm to which the gradient is clipped."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "muon"] = "adamw"
    """muon: AdamW for all but the matrices of numbered layers; prodigy wants learning_rate 1."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the exponential moving average of the weights, which is saved in their place; 0 is off."""
    compile: bool = False
    """Compile the transformer's blocks with torch.compile."""
    validation_every: int = Field(default=0, ge=0)
    """Steps between validation losses; 0: at the start and at the end only."""
    save_every: int = Field(default=0, ge=0)
    """Steps between resumable states and exported weights; 0: at the end only."""
    keep_checkpoints: bool = False
    """Keep the adapter of every `save_every` steps in OUTPUT/checkpoints, which `glmkit sweep` compares."""

    whole_batch_keys: ClassVar[tuple[str, ...]] = ("equal_pixels", "pack")
    """Choices with which processes cannot share one micro-batch: it has no equal parts."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.keep_checkpoints and (self.lora is None or not self.save_every):
            raise ValueError("keep_checkpoints: true needs a lora section, and save_every above 0")
        if self.compile and self.lora is not None and self.lora.offload:
            raise ValueError("compile: true needs weights that stay where they are; not lora.offload: true")
        if self.optimizer == "prodigy" and self.learning_rate < 0.01:
            raise ValueError(f"prodigy finds its rate itself, times learning_rate: 1, not {self.learning_rate:g}")
        if self.micro_batch_size is not None and self.global_batch_size % self.micro_batch_size:
            sizes = f"global_batch_size {self.global_batch_size} is not a multiple of"
            raise ValueError(f"{sizes} micro_batch_size {self.micro_batch_size}")
        return self

    @property
    def learns_from_rewards(self) -> bool:
        """Tell whether the stage learns from images that it generates and rewards itself (its section `rl`)."""
        return getattr(self, "rl", None) is not None

    @property
    def examples_per_step(self) -> int:
        """Count the images of the data per step, or prompts, each of a group of images."""
        rl: Rl | None = getattr(self, "rl", None)
        return self.global_batch_size // (1 if rl is None else rl.group_size)

    @property
    def accumulation_steps(self) -> int:
        """Forward passes whose gradients make up one optimizer step."""
        return self.global_batch_size // (self.micro_batch_size or self.global_batch_size)


class BlockStage(Stage):
    """A stage whose gradient goes through the numbered layers of a transformer."""

    gradient_checkpointing: int = Field(default=0, ge=0)
    """1: every layer keeps its inputs only, and computes again on the way back; N: every Nth layer; 0: none."""
    regularization_weight: float = Field(default=0.0, ge=0)
    """Weight of the distance to the model without adapters (prior preservation, arXiv:2208.12242), on the images of a
    step, or on those of `data.train` that say `regularization: true`."""

    @model_validator(mode="after")
    def _has_adapters(self) -> Self:
        if self.regularization_weight and self.lora is None:
            raise ValueError(
                "regularization_weight needs a lora section; without adapters nothing remembers what was before"
            )
        return self


class AutoregressiveStage(BlockStage):
    """Next-token prediction over preview, large grid and end; the image positions only."""

    preview_weight: float = Field(default=1.0, ge=0)
    """Weight of the preview's mean cross-entropy; that of the large grid is 1."""
    caption_dropout: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are learnt without their caption."""
    pack: bool = False
    """Put images of all sizes into one sequence, without padding."""
    rl: AutoregressiveRl | None = None
    """Learn from rewards by GRPO, on the prompts of `data.prompts`, in place of images."""
    dpo: AutoregressiveDpo | None = None
    """Learn from pairs: images of `data.train` that have a rejected one beside them."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rl is not None:
            _check_rl(self, self.rl, "caption_dropout", "pack")
        if self.dpo is not None:
            _check_dpo(self, "pack")
        if self.pack and self.equal_pixels:
            raise ValueError("pack puts images of all sizes into a batch, equal_pixels batches those of one size")
        return self


class DecoderStage(BlockStage):
    """Flow matching on latents, with the image's own tokens as prior (teacher forcing)."""

    train_glyph: bool = False
    """Train the glyph encoder together with the whole decoder."""
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    """Share of the images whose prior tokens and glyph texts are dropped together, for classifier-free guidance."""
    prior_token_drop: float = Field(default=0.0, ge=0, le=1)
    """Share of the images whose prior tokens alone are dropped."""
    text_weight: float = Field(default=0.0, ge=-1)
    """Extra weight of the loss where text stands; -1: nothing is learnt there."""
    other_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss where no text stands; 0: only text is learnt."""
    logit_std: float = Field(default=1.0, gt=0)
    """Standard deviation of the normal distribution whose sigmoid gives the timesteps (logit-normal)."""
    rl: DecoderRl | None = None
    """Learn from rewards by DiffusionNFT, on the prompts of `data.prompts`, in place of images."""
    dpo: DecoderDpo | None = None
    """Learn from pairs: images of `data.train` that have a rejected one beside them."""

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        if self.rl is not None:
            _check_rl(self, self.rl, "train_glyph", "prior_token_drop", "text_weight", "other_weight")
        if self.dpo is not None:
            _check_dpo(self, "train_glyph", "text_weight", "other_weight")
        if self.train_glyph and self.lora is not None:
            raise ValueError("train_glyph needs a stage without lora; the glyph stage adapts the glyph encoder")
        if self.text_weight == -1 and self.other_weight == 0:
            raise ValueError("text_weight: -1 and other_weight: 0 leave nothing to learn")
        return self


class GlyphStage(DecoderStage):
    """The glyph encoder alone, by the decoder's loss: the decoder, adapted before or not, stays as it is."""

    lora: Lora
    """Train adapters of the glyph encoder."""
    rl: None = None
    """The glyph encoder learns from images alone."""
    dpo: None = None
    """The glyph encoder learns from single images."""


def _check_rl(stage: BlockStage, rl: Rl, *unused: str) -> None:
    """ValueError when a stage cannot learn from rewards as it is; `unused` are keys that must be left out then."""
    if stage.lora is None:
        raise ValueError("rl needs a lora section: rewards are for images of the model without its adapters, too")
    if stage.lora.dropout:
        raise ValueError("rl needs lora.dropout: 0, since the model that learns must be the one that generates")
    for key in (*unused, "compile", "equal_pixels", "regularization_weight"):
        if getattr(stage, key) != type(stage).model_fields[key].default:
            raise ValueError(f"{key} does nothing under rl" + "; kl_weight does" * (key == "regularization_weight"))
    if stage.global_batch_size % rl.group_size:
        raise ValueError(
            f"global_batch_size {stage.global_batch_size} is not a multiple of rl.group_size {rl.group_size}"
        )
    for key in ("steps", "save_every"):
        if getattr(stage, key) % rl.updates:
            raise ValueError(f"{key} {getattr(stage, key)} is not a multiple of rl.updates {rl.updates}")


def _check_dpo(stage: BlockStage, *unused: str) -> None:
    """ValueError when a stage cannot learn from pairs as it is; `unused` are keys that must be left out then."""
    if getattr(stage, "rl", None) is not None:
        raise ValueError("a stage learns from rewards (rl) or from pairs (dpo), not from both")
    if stage.lora is None:
        raise ValueError("dpo needs a lora section; without adapters nothing remembers what was before")
    for key in (*unused, "regularization_weight"):
        if getattr(stage, key) != type(stage).model_fields[key].default:
            raise ValueError(f"{key} does nothing under dpo, whose beta holds the model near what it was")
