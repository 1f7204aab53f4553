"""Pairs of a better and a rejected image of one caption: DPO (arXiv:2305.18290) for both halves of the model.

The reference is the model without adapters. With g, how much likelier than for the reference an image has become, a
pair costs -log sigmoid(beta (g of the better image - g of the rejected one)). Both images of a pair have the same
caption, are dropped together, and in the decoder have the same noise and time.

B pairs, C H W of latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.config import AutoregressiveStage, DecoderStage
from glmkit.config.dpo import Dpo
from glmkit.generation import flow_matching as flow
from glmkit.models.devices import autocast
from glmkit.models.hybrid import HybridModel
from glmkit.training.data import Datasets
from glmkit.training.objectives import EVERY
from glmkit.training.objectives.autoregressive import AutoregressiveObjective
from glmkit.training.objectives.decoder import DecoderFeatures, DecoderInputs, DecoderObjective, sample_latents
from glmkit.training.objectives.regularization import without_adapters
from glmkit.training.objectives.token_batches import TokenSequences

Losses = dict[str, Tensor]


def pair_losses(costs: Tensor, reference: Tensor, settings: Dpo, scale: float = 1.0) -> Losses:
    """Return the loss of each pair, its two terms (`dpo`, `supervised`) and what became of it, all B.

    `costs` are those of the better images, then of the rejected ones: 2B, negative log-likelihoods or what stands for
    them, and `reference` the same of the model without adapters; `scale` stands before beta. `won`: whether the better
    image has gained more; `chosen` and `rejected`: how much either has gained, which may be negative for both.
    """
    chosen, rejected = (reference - costs).chunk(2)
    margin = scale * settings.beta * (chosen - rejected)
    smoothing = settings.label_smoothing
    dpo = -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
    supervised = costs[: len(dpo)]
    loss = dpo + settings.supervised_weight * supervised
    shown = {"dpo": dpo, "supervised": supervised, "won": (margin > 0).float(), "chosen": chosen, "rejected": rejected}
    return {"loss": loss, **{name: values.detach() for name, values in shown.items()}}


def _means(losses: Losses) -> tuple[Tensor, Losses]:
    """Return the mean loss, and the means of what to show beside it."""
    means = {name: values.mean() for name, values in losses.items()}
    return means.pop("loss"), means


class AutoregressivePreference(AutoregressiveObjective):
    """Makes the prior tokens of the better image of a pair likelier than those of the rejected one."""

    def __init__(
        self,
        hybrid: HybridModel,
        features: tuple[TokenSequences, TokenSequences],
        datasets: Datasets,
        stage: AutoregressiveStage,
    ) -> None:
        super().__init__(hybrid, features, datasets, stage)
        assert stage.dpo is not None
        self.settings = stage.dpo
        self.rejected, self.rejected_validation = (images.rejected for images in datasets)

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of pairs with the cross-entropy of the better images, and means to show."""
        chosen, dropped = indices[rows], self.sample_drops(indices, generator)[rows]
        return _means(self._pairs(self.sequences, chosen, [self.rejected[index] for index in chosen], dropped))

    def _pairs(
        self, sequences: TokenSequences, chosen: Sequence[int], rejected: Sequence[int], dropped: Sequence[bool]
    ) -> Losses:
        batch = sequences.padded([*chosen, *rejected], [*dropped, *dropped])
        costs = self._costs(batch.cross_entropies(batch.logits(self.trained)))
        with without_adapters(self.trained):
            reference = self._costs(batch.cross_entropies(batch.logits(self.trained)))
        return pair_losses(costs, reference, self.settings)

    def _costs(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the weighted cross-entropy of every image, as supervised training has it."""
        return torch.stack([self.weights[name] * values for name, values in parts.items()]).sum(dim=0)

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Return the loss of pairs, how many are won, and what their images have gained, in nats per token."""
        losses = []
        for indices in self.validation_groups:
            rejected = [self.rejected_validation[index] for index in indices]
            with autocast(self.device):
                losses.append(self._pairs(self.validation, indices, rejected, [False] * len(indices)))
        return _pooled(losses)


class DecoderPreference(DecoderObjective):
    """Makes the velocity that leads to the better image of a pair more exact than that to the rejected one."""

    def __init__(
        self,
        hybrid: HybridModel,
        features: tuple[DecoderFeatures, DecoderFeatures],
        datasets: Datasets,
        stage: DecoderStage,
    ) -> None:
        super().__init__(hybrid, features, datasets, stage)
        assert stage.dpo is not None
        self.settings = stage.dpo
        self.rejected, self.rejected_validation = (images.rejected for images in datasets)

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of pairs with the flow matching of the better images, and means to show."""
        inputs = self.sample_inputs(indices, generator)
        others = [self.rejected[index] for index in indices]
        latents = sample_latents(self.train.latents[others].float(), generator)
        prior = inputs.prior_token_ids if self.settings.same_prior else self.sample_prior(others, generator)
        return _means(self._pairs(self.train, _beside(inputs.of(rows), others[rows], latents[rows], prior[rows])))

    def _pairs(self, known: DecoderFeatures, inputs: DecoderInputs) -> Losses:
        def costs() -> Tensor:
            velocity, _ = self.predict_velocity(known, inputs)
            return (velocity - inputs.target).square().mean(dim=(1, 2, 3))

        now = costs()
        with without_adapters(self.trained):
            reference = costs()
        return pair_losses(now, reference, self.settings, scale=0.5)  # the half of Diffusion-DPO's bound

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Return the loss of pairs, how many are won, and by how much the error of their images has fallen, at the
        noise and times of supervised training.
        """
        losses = []
        for indices in self.validation_groups:
            others = [self.rejected_validation[index] for index in indices]
            latents = self.validation.latent_means(others)
            for inputs in self.fixed_inputs(indices):
                same = self.settings.same_prior
                prior = inputs.prior_token_ids if same else self.validation.prior_token_ids[others].long()
                with autocast(self.device):
                    losses.append(self._pairs(self.validation, _beside(inputs, others, latents, prior)))
        return _pooled(losses)


def _beside(inputs: DecoderInputs, indices: Sequence[int], latents: Tensor, prior_token_ids: Tensor) -> DecoderInputs:
    """Put the rejected images `indices` behind the better ones, with the same noise, times, drops and caption."""

    def twice(values: Tensor) -> Tensor:
        return torch.cat([values, values])

    return DecoderInputs(
        [*inputs.indices, *indices],
        torch.cat([inputs.latents, latents]),
        twice(inputs.noise),
        flow.Times(*map(twice, inputs.times)),
        torch.cat([inputs.prior_token_ids, prior_token_ids]),
        twice(inputs.prior_token_drop),
        twice(inputs.conditional),
        [*inputs.texts, *inputs.texts],
    )


def _pooled(losses: Sequence[Losses]) -> dict[str, float]:
    """Average over all pairs, whatever batches they were in."""
    return {name: torch.cat([one[name] for one in losses]).mean().item() for name in losses[0]}
