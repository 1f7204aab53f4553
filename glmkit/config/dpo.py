"""Sections `autoregressive.dpo` and `decoder.dpo`: learning from pairs of a better and a worse image of one caption."""

from __future__ import annotations

from pydantic import Field

from glmkit.config.section import Section


class Dpo(Section):
    """Direct preference optimization (DPO, arXiv:2305.18290) against the model without adapters.

    The better image of a pair becomes likelier than the rejected one, by more than it was before. A pair counts less
    the further it is won.
    """

    beta: float = Field(gt=0)
    """How soon a pair counts as won: with a larger beta the model stays nearer to the one without adapters."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the pairs that are taken to be the wrong way round (conservative DPO)."""
    supervised_weight: float = Field(default=0.1, ge=0)
    """Weight of the supervised loss of the better images; without it both images of a pair may become less likely."""


class AutoregressiveDpo(Dpo):
    """The log-likelihood of an image is the weighted mean over its prior tokens, as in supervised training."""

    beta: float = Field(default=20.0, gt=0)
    """How soon a pair counts as won: with a larger beta the model stays nearer to the one without adapters. Means over
    tokens: 20 is 0.1 per token of 200 tokens."""


class DecoderDpo(Dpo):
    """Diffusion-DPO (arXiv:2311.12908) for flow matching: the squared error of the velocity, at one noise and time for
    both images of a pair, stands for the likelihood.
    """

    beta: float = Field(default=500.0, gt=0)
    """How soon a pair counts as won: with a larger beta the model stays nearer to the one without adapters. Means over
    latents: published values are 100 to 5000."""
    same_prior: bool = False
    """Condition both images of a pair on the prior tokens of the better one: for pairs that the decoder made of the
    same prior tokens."""
