"""The autoregressive stage: next-token prediction over preview, large grid and end, at image positions only.

An edit has the codes of its source in the prompt, and no preview; the loss is on the target alone. Inputs are built as
inference builds them. A caption that is dropped leaves what an empty prompt would, the chat template, the sizes and the
source of an edit, so that a style is learnt that needs no words. The loss is ours: the published model's own `labels=`
path views 16,512 output columns as 168,064 and fails. B batch, N written tokens (preview, large, end), V outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.config import AutoregressiveStage
from glmkit.models.compiling import allow_shapes
from glmkit.models.hybrid import HybridModel
from glmkit.training.data import Datasets, buckets, groups
from glmkit.training.features import FeatureCache
from glmkit.training.objectives import EVERY, Divisible, StageKind
from glmkit.training.objectives.regularization import RegularizationImages, without_adapters
from glmkit.training.objectives.token_batches import Sequences, Sheet

VALIDATION_IMAGES = 64


def precompute(
    hybrid: HybridModel, datasets: Datasets, _: AutoregressiveStage, cache: FeatureCache
) -> tuple[Sequences, Sequences]:
    """Tokenize both data sets: their images by the semantic tokenizer, their captions by the processor's."""
    images, validation = datasets
    return Sequences(images, hybrid, cache), Sequences(validation, hybrid, cache)


class AutoregressiveObjective(Divisible):
    def __init__(
        self,
        hybrid: HybridModel,
        features: tuple[Sequences, Sequences],
        datasets: Datasets,
        stage: AutoregressiveStage,
    ) -> None:
        images, validation = datasets
        self.sequences, self.validation = features
        self.regularization = RegularizationImages(images)
        self.trained, self.stage, self.device = hybrid.autoregressive, stage, hybrid.device
        self.validation_groups = groups(buckets(validation), 16, limit=VALIDATION_IMAGES)
        self.weights = {"preview": stage.preview_weight, "large": 1.0, "edit": 1.0, "end": 1 / 64}

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # Drawn where no copy from the GPU is needed: it decides which tokens there are.
        draws = torch.rand(len(indices), generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        make = self.sequences.packed if self.stage.pack else self.sequences.padded
        own = indices[rows]
        sheet: Sheet = make(own, (draws[rows] < self.stage.caption_dropout).tolist())
        logits = sheet.logits(self.trained)
        parts = sheet.losses(logits)
        loss, shown = self._total(parts, len(own)), {name: nats.detach().mean() for name, nats in parts.items()}
        if self.stage.regularization_weight:
            reminder = self.regularization(indices, generator)
            if reminder is not indices:
                sheet = self.sequences.padded(reminder[rows])
                logits = sheet.logits(self.trained)
            drift = self._drift(sheet, logits)
            loss, shown["drift"] = loss + self.stage.regularization_weight * drift, drift.detach()
        return loss, shown

    def _drift(self, sheet: Sheet, logits: Tensor) -> Tensor:
        """Kullback-Leibler divergence in nats a token of the model from what it is without adapters; every image
        counts the same, however long it is."""
        with without_adapters(self.trained):
            before = sheet.logits(self.trained).log_softmax(dim=-1)
        nats = F.kl_div(logits.log_softmax(dim=-1), before, log_target=True, reduction="none")
        return sheet.mean(nats.sum(dim=-1))

    def _total(self, parts: dict[str, Tensor], count: int) -> Tensor:
        """Mean over `count` images of each one's weighted parts."""
        return torch.stack([self.weights[name] * nats.sum() for name, nats in parts.items()]).sum() / count

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Cross-entropy in nats a token on images never trained on; preview, large grid, edits and end apart."""
        rows: dict[str, list[Tensor]] = {}
        for indices in self.validation_groups:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                sheet = self.validation.padded(indices)
                parts = sheet.losses(sheet.logits(self.trained))
            total = self._total(parts, len(indices)).expand(len(indices))
            for name, nats in {"loss": total, **parts}.items():
                rows.setdefault(name, []).append(nats)
        return {name: torch.cat(nats).mean().item() for name, nats in rows.items()}

    def compile(self) -> None:
        allow_shapes()
        self.sequences.one_shape = self.validation.one_shape = True
        for layer in self.trained.language_model.layers:
            layer.compile(dynamic=self.stage.pack)  # packed rows are of any lengths, padded ones of a few


KIND = StageKind(AutoregressiveObjective, precompute, encoders=("semantic_vq",), transformer="autoregressive")
