"""The autoregressive stage: next-token prediction over preview, large grid and end, at image positions only.

An edit has the codes of its source in the prompt, and no preview; the loss is on the target alone. Inputs are built as
inference builds them. A caption that is dropped leaves what an empty prompt would, the chat template, the sizes and the
source of an edit, so that a style is learnt that needs no words. The loss is ours: the published model's own `labels=`
path views 16,512 output columns as 168,064 and fails. B batch, N written tokens (preview, large, end), V outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.config import AutoregressiveStage
from glmkit.generation import pipeline
from glmkit.generation.sequence import PromptTokenizer, TrainingBatch, training_batch
from glmkit.models.autoregressive import AutoregressiveModel
from glmkit.models.compiling import allow_shapes
from glmkit.models.hybrid import HybridModel
from glmkit.training import cache
from glmkit.training.data import Pictures, asked_for, buckets, by_size, groups
from glmkit.training.objectives import Objective
from glmkit.training.objectives.preserving import Preserved, without_adapters

HELD_OUT_PICTURES = 64


@dataclass(frozen=True)
class Sheet:
    """Teacher-forced sequences of one kind, and how many of the N written columns belong to each part, in order."""

    batch: TrainingBatch
    counts: dict[str, int]

    def logits(self, model: AutoregressiveModel) -> Tensor:
        """B N V, float32."""
        return model(self.batch.ids_BT, self.batch.positions_3BT, keep=self.batch.keep_BN).float()

    def losses(self, logits_BNV: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropy in nats a token of every part."""
        targets_BN = self.batch.written_BN
        losses = F.cross_entropy(logits_BNV.flatten(0, 1), targets_BN.flatten(), reduction="none").view_as(targets_BN)
        parts = losses.split(list(self.counts.values()), dim=1)
        return {name: part.mean() for name, part in zip(self.counts, parts, strict=True)}


class Sequences:
    """Prompt ids and own codes of every picture. `bare` are the prompts without their captions: sizes, and the source
    of an edit."""

    def __init__(
        self, pictures: Pictures, hybrid: HybridModel, keeper: cache.Keeper, *, with_preview: bool = True
    ) -> None:
        self.large = cache.large_cache(hybrid, pictures, keeper)
        self.preview = cache.preview_cache(hybrid, pictures, keeper) if with_preview else None
        self.sources, self.config = pictures.sources, hybrid.autoregressive.config
        self.prompts: list[list[int]] = [[] for _ in pictures.captions]
        self.bare: list[list[int]] = [[] for _ in pictures.captions]
        # One length for every batch of a kind: a compiled model then has one shape a picture size.
        self.prompt_length = {False: 0, True: 0}
        tokenizer = pipeline.prompt_tokenizer(hybrid.folder)
        for kind, members in by_size(asked_for(pictures)).items():
            captions = [pictures.captions[index] for index in members]
            prompts = self._prompts(tokenizer, captions, members, kind)
            bare = self._prompts(tokenizer, [""] * len(members), members, kind)
            for index, own, own_bare in zip(members, prompts, bare, strict=True):
                self.prompts[index], self.bare[index] = own, own_bare
            rounded = -(-max(map(len, prompts)) // 16) * 16
            self.prompt_length[kind[2]] = max(self.prompt_length[kind[2]], rounded)

    def _prompts(
        self, tokenizer: PromptTokenizer, captions: list[str], members: list[int], kind: tuple[int, int, bool]
    ) -> list[list[int]]:
        height, width, is_edit = kind
        if not is_edit:
            return tokenizer.text_to_image_batch(captions, height, width)
        codes = self.large[[self.sources[index] for index in members]].long().cpu()
        return tokenizer.edit_batch(captions, [[own] for own in codes], height, width)

    def sheet(self, indices: Sequence[int], dropped: Sequence[bool] = ()) -> Sheet:
        """The sequences of pictures of one kind: preview, large grid and end, or of edits the edit and end. Those that
        are `dropped` have no caption."""
        is_edit = indices[0] in self.sources
        large = self.large[indices].long()
        written = {"edit" if is_edit else "large": large}
        if self.preview is not None and not is_edit:
            written = {"preview": self.preview[indices].long(), **written}
        left_out = dropped or [False] * len(indices)
        prompts = [(self.bare if out else self.prompts)[index] for index, out in zip(indices, left_out, strict=True)]
        grids = [(large.shape[1], large.shape[2])] if is_edit else []
        batch = training_batch(prompts, list(written.values()), self.config, self.prompt_length[is_edit], grids)
        return Sheet(batch, {**{name: codes[0].numel() for name, codes in written.items()}, "end": 1})


class AutoregressiveObjective(Objective):
    def __init__(
        self,
        hybrid: HybridModel,
        keeper: cache.Keeper,
        pictures: Pictures,
        held_out: Pictures,
        stage: AutoregressiveStage,
    ) -> None:
        self.sequences = Sequences(pictures, hybrid, keeper, with_preview=stage.preview)
        self.known = Sequences(held_out, hybrid, keeper, with_preview=stage.preview)
        self.preserved = Preserved(pictures)
        hybrid.release("semantic_vq")
        self.trained, self.stage, self.device = hybrid.autoregressive, stage, keeper.device
        self.held_out_groups = groups(buckets(held_out), 16, limit=HELD_OUT_PICTURES)
        self.weights = {"preview": stage.preview_weight, "large": 1.0, "edit": 1.0, "end": 1 / 64}

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        # Drawn where no copy from the GPU is needed: it decides which tokens there are.
        draws = torch.rand(len(indices), generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        sheet = self.sequences.sheet(indices, (draws < self.stage.drop).tolist())
        logits = sheet.logits(self.trained)
        parts = sheet.losses(logits)
        loss, shown = self._total(parts), {name: value.detach() for name, value in parts.items()}
        if self.stage.preserve:
            reminder = self.preserved(indices, generator)
            if reminder is not indices:
                sheet = self.sequences.sheet(reminder)
                logits = sheet.logits(self.trained)
            drift = self._drift(sheet, logits)
            loss, shown["drift"] = loss + self.stage.preserve * drift, drift.detach()
        return loss, shown

    def _drift(self, sheet: Sheet, logits: Tensor) -> Tensor:
        """Kullback-Leibler divergence in nats a token of the model from what it is without adapters."""
        with without_adapters(self.trained):
            before = sheet.logits(self.trained).log_softmax(dim=-1)
        nats = F.kl_div(logits.log_softmax(dim=-1), before, log_target=True, reduction="none")
        return nats.sum(dim=-1).mean()

    def _total(self, parts: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Cross-entropy in nats a token on pictures never trained on; preview, large grid, edits and end apart."""
        rows: dict[str, list[Tensor]] = {}
        for indices in self.held_out_groups:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                sheet = self.known.sheet(indices)
                parts = sheet.losses(sheet.logits(self.trained))
            for name, value in {"loss": self._total(parts), **parts}.items():
                rows.setdefault(name, []).extend([value] * len(indices))
        return {name: torch.stack(values).mean().item() for name, values in rows.items()}

    def compile(self) -> None:
        allow_shapes()
        for layer in self.trained.language_model.layers:
            layer.compile(dynamic=False)
