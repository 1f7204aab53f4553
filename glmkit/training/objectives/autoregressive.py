"""The autoregressive stage: next-token prediction over preview, large grid and end, at image positions only.

Inputs are built as inference builds them, with teacher forcing. An edit has the prior tokens of its condition image in
the prompt, and no preview; the loss is on the target alone. Caption dropout leaves what an empty prompt would: the chat
template, the sizes, and the condition image of an edit; so a style is learnt that needs no words. The loss is ours: the
published model's own `labels=` path views 16,512 output columns as 168,064 and fails.

B batch, N image tokens (preview, large grid, end) of a sequence, V outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.config import AutoregressiveStage
from glmkit.models.compiling import allow_shapes
from glmkit.models.devices import autocast
from glmkit.models.hybrid import HybridModel
from glmkit.training.data import Datasets, buckets, first_batches
from glmkit.training.features import FeatureCache
from glmkit.training.objectives import EVERY, Divisible, StageKind
from glmkit.training.objectives.regularization import RegularizationImages, without_adapters
from glmkit.training.objectives.token_batches import TokenBatch, TokenSequences

VALIDATION_IMAGES = 64
END_WEIGHT = 1 / 64  # the end is one token, and always the same


def precompute(
    hybrid: HybridModel, datasets: Datasets, _: AutoregressiveStage, cache: FeatureCache
) -> tuple[TokenSequences, TokenSequences]:
    """Tokenize both data sets: their images by the semantic tokenizer, their captions by the processor's."""
    images, validation = datasets
    return TokenSequences(images, hybrid, cache), TokenSequences(validation, hybrid, cache)


class AutoregressiveObjective(Divisible):
    """Predicts the next prior token: cross-entropy, the mean of each part weighted."""

    def __init__(
        self,
        hybrid: HybridModel,
        features: tuple[TokenSequences, TokenSequences],
        datasets: Datasets,
        stage: AutoregressiveStage,
    ) -> None:
        images, validation = datasets
        self.sequences, self.validation = features
        self.regularization = RegularizationImages(images)
        self.trained, self.stage, self.device = hybrid.autoregressive, stage, hybrid.device
        self.validation_groups = first_batches(buckets(validation), 16, limit=VALIDATION_IMAGES)
        self.weights = {"preview": stage.preview_weight, "large": 1.0, "edit": 1.0, "end": END_WEIGHT}

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted cross-entropy, and the mean of each part in nats per token."""
        # 1. Drop captions.
        dropped = self.sample_drops(indices, generator)[rows]

        # 2. Teacher forcing: predict each image token from those before it.
        chosen = indices[rows]
        batch: TokenBatch = (self.sequences.packed if self.stage.pack else self.sequences.padded)(chosen, dropped)
        logits = batch.logits(self.trained)
        parts = batch.cross_entropies(logits)
        loss = self._weighted(parts, len(chosen))
        metrics = {name: values.detach().mean() for name, values in parts.items()}

        # 3. Prior preservation: the distance to what the model predicts without adapters.
        if self.stage.regularization_weight:
            others = self.regularization(indices, generator)
            if others is not indices:
                batch = self.sequences.padded(others[rows])
                logits = batch.logits(self.trained)
            drift = self._drift(batch, logits)
            loss, metrics["drift"] = loss + self.stage.regularization_weight * drift, drift.detach()
        return loss, metrics

    def sample_drops(self, indices: Sequence[int], generator: torch.Generator) -> list[bool]:
        """Sample which captions are dropped, on the CPU: that decides which tokens there are."""
        uniforms = torch.rand(len(indices), generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        dropped: list[bool] = (uniforms < self.stage.caption_dropout).tolist()
        return dropped

    def _drift(self, batch: TokenBatch, logits: Tensor) -> Tensor:
        """Return the Kullback-Leibler divergence, in nats per token, from the model without adapters.

        Every image counts the same, however many tokens it has.
        """
        with without_adapters(self.trained):
            before = batch.logits(self.trained).log_softmax(dim=-1)
        divergence = F.kl_div(logits.log_softmax(dim=-1), before, log_target=True, reduction="none")
        return batch.image_mean(divergence.sum(dim=-1))

    def _weighted(self, parts: dict[str, Tensor], count: int) -> Tensor:
        """Return the mean over `count` images of each one's weighted parts."""
        return torch.stack([self.weights[name] * values.sum() for name, values in parts.items()]).sum() / count

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Return the cross-entropy in nats per token; preview, large grid, edits and end apart."""
        losses: dict[str, list[Tensor]] = {}
        for indices in self.validation_groups:
            with autocast(self.device):
                batch = self.validation.padded(indices)
                parts = batch.cross_entropies(batch.logits(self.trained))
            total = self._weighted(parts, len(indices)).expand(len(indices))
            for name, values in {"loss": total, **parts}.items():
                losses.setdefault(name, []).append(values)
        return {name: torch.cat(values).mean().item() for name, values in losses.items()}

    def compile(self) -> None:
        """Compile each layer; packed sequences are of any lengths, padded ones of a few."""
        allow_shapes()
        self.sequences.one_shape = self.validation.one_shape = True
        for layer in self.trained.language_model.layers:
            layer.compile(dynamic=self.stage.pack)


def objective(
    hybrid: HybridModel, features: tuple[TokenSequences, TokenSequences], datasets: Datasets, stage: AutoregressiveStage
) -> AutoregressiveObjective:
    """Return the objective of a stage: next tokens, or pairs."""
    from glmkit.training.objectives.preference import AutoregressivePreference

    kind = AutoregressiveObjective if stage.dpo is None else AutoregressivePreference
    return kind(hybrid, features, datasets, stage)


KIND = StageKind(objective, precompute, encoders=("semantic_vq",), transformer="autoregressive")
