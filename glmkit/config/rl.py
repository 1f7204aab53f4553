"""Sections `autoregressive.rl` and `decoder.rl`: reinforcement learning from rewards of generated images."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, NonNegativeFloat, model_validator

from glmkit.config.rewards import RewardSettings
from glmkit.config.section import Section


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("must be [lowest, highest]")
    return bounds


Bounds = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_in_order)]


class Limits(Section):
    """When a run stops since it games its reward: [lowest, highest] share of what it began with; null: no limit."""

    edge_density: Bounds | None = (0.5, 2.0)
    """Share of pixels that are edges, against images of the same prompts by the model without adapters."""
    colour_entropy: Bounds | None = (0.6, 1.6)
    """Entropy of the colours, against the same."""
    brightness: Bounds | None = (0.6, 1.6)
    """Mean luma, against the same."""
    letter_size: Bounds | None = (0.5, 2.0)
    """Height of the texts, against the same; where a reward reads text."""
    unrequested: float | None = Field(default=0.2, gt=0)
    """By how much more text may be read that was not asked for than in the first round, in characters per expected
    one; where a reward reads text."""
    duplicates: float | None = Field(default=0.5, gt=0)
    """By how much the share of images that another of their prompt equals may grow over the first round."""
    diversity: Bounds | None = (0.4, 3.0)
    """Distance between the images of one prompt, against the first round."""
    entropy: Bounds | None = (0.5, 2.0)
    """Entropy of the prior tokens, against the first round; the AR model only."""
    kl: float | None = Field(default=0.5, gt=0)
    """The most nats per prior token from the model without adapters; the AR model only."""
    surprise: float | None = Field(default=0.2, gt=0)
    """The most nats per prior token by which sampled tokens are likelier, or less likely, than they should be if the
    model that learns had sampled them; the AR model only."""
    drift: float | None = Field(default=None, gt=0)
    """The largest mean squared distance from the velocity of the model without adapters; the decoder only."""


class Rl(Section):
    """Rounds of images: generate a group of images of each prompt, reward them, learn from what is better in a group.

    A round has `global_batch_size` images.
    """

    rewards: RewardSettings
    """What makes an image good."""
    group_size: int = Field(default=8, ge=2)
    """Images of one prompt in a round, which are compared with each other."""
    updates: int = Field(default=1, gt=0)
    """Optimizer steps on the images of each round."""
    denoising_steps: int | None = Field(default=None, gt=0, le=1000)
    """Denoising steps of the images that are learnt from; none: the model's default."""
    guidance: float | None = Field(default=None, ge=0)
    """Guidance of the images that are learnt from; none: the model's default."""
    generate_at_once: int = Field(default=16, gt=0)
    """Images that a process generates together."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of the distance from the model without adapters."""
    limits: Limits = Limits()
    """When a run stops since it games its reward."""


class AutoregressiveRl(Rl):
    """GRPO (arXiv:2402.03300): the tokens of images that are better than others of their prompt become likelier."""

    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the prior tokens that are learnt from."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Top-p of the prior tokens that are learnt from."""
    top_k: int = Field(default=0, ge=0)
    """Top-k of the prior tokens that are learnt from; 0 keeps all."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """A token whose probability has fallen by this share since the round began gets no gradient to fall further."""
    clip_high: float = Field(default=0.28, gt=0)
    """The same for a token whose probability has risen (clip-higher, arXiv:2503.14476)."""
    kl_weight: float = Field(default=0.01, ge=0)
    """Weight of the Kullback-Leibler divergence from the model without adapters, in nats per token."""

    @model_validator(mode="after")
    def _leaves_a_choice(self) -> Self:
        if self.top_k == 1:
            raise ValueError("top_k: 1 generates the same tokens again and again, so there is nothing to learn from")
        return self


class DecoderRl(Rl):
    """DiffusionNFT (arXiv:2509.16117): the velocity moves to images that are better than others, away from worse."""

    beta: float = Field(default=1.0, gt=0)
    """How near the goal of each image is: the velocity of the round's beginning, and 1 / beta of the way to the image
    or away from it."""
    times_per_image: int = Field(default=2, gt=0)
    """Noise levels at which each image is learnt per step; the memory of a micro-batch grows with it."""
    old_decay: float = Field(default=0.0, ge=0, lt=1)
    """How much the model that generates lags behind the one that learns: its decay after each round, at most."""
    old_decay_growth: float = Field(default=0.0075, gt=0)
    """By how much that decay grows per round, from 0, after `old_decay_start` rounds."""
    old_decay_start: int = Field(default=0, ge=0)
    """Rounds in which the model that generates is the one that learns."""
    kl_weight: float = Field(default=1e-4, ge=0)
    """Weight of the mean squared distance from the velocity of the model without adapters."""
