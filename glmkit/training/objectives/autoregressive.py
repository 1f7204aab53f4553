"""The autoregressive stage: next-token prediction over preview, large grid and end, at image positions only.

An edit has the codes of its source in the prompt, and no preview; the loss is on the target alone. Inputs are built as
inference builds them. The loss is ours: the published model's own `labels=` path views 16,512 output columns as 168,064
and fails. B batch, N written tokens (preview, large, end), V output columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.config import AutoregressiveStage
from glmkit.generation import pipeline
from glmkit.generation.sequence import training_batch
from glmkit.models.autoregressive import AutoregressiveModel
from glmkit.models.compiling import allow_shapes
from glmkit.models.hybrid import HybridModel
from glmkit.training import cache
from glmkit.training.data import Pictures, buckets, by_size, groups
from glmkit.training.objectives import Objective

HELD_OUT_PICTURES = 64


class Sequences:
    """Prompt ids and own codes of every picture, and the teacher-forced loss on them."""

    def __init__(
        self, pictures: Pictures, hybrid: HybridModel, keeper: cache.Keeper, *, with_preview: bool = True
    ) -> None:
        self.large = cache.large_cache(hybrid, pictures, keeper)
        self.preview = cache.preview_cache(hybrid, pictures, keeper) if with_preview else None
        self.sources = pictures.sources
        tokenizer = pipeline.prompt_tokenizer(hybrid.folder)
        self.prompts: list[list[int]] = [[] for _ in pictures.captions]
        # One length for every batch of a kind: a compiled model then has one shape a picture size.
        self.prompt_length = {False: 0, True: 0}
        for (height, width, is_edit), members in by_size(buckets(pictures)).items():
            captions = [pictures.captions[index] for index in members]
            if is_edit:
                codes = self.large[[self.sources[index] for index in members]].long().cpu()
                prompts = tokenizer.edit_batch(captions, [[own] for own in codes], height, width)
            else:
                prompts = tokenizer.text_to_image_batch(captions, height, width)
            for index, prompt in zip(members, prompts, strict=True):
                self.prompts[index] = prompt
            rounded = -(-max(map(len, prompts)) // 16) * 16
            self.prompt_length[is_edit] = max(self.prompt_length[is_edit], rounded)

    def losses(self, model: AutoregressiveModel, indices: Sequence[int]) -> dict[str, Tensor]:
        """Mean cross-entropy in nats a token over preview, large grid and end; of edits over edit and end."""
        is_edit = indices[0] in self.sources
        large = self.large[indices].long()
        written = {"edit" if is_edit else "large": large}
        if self.preview is not None and not is_edit:
            written = {"preview": self.preview[indices].long(), **written}
        batch = training_batch(
            [self.prompts[index] for index in indices],
            list(written.values()),
            model.config,
            self.prompt_length[is_edit],
            [(large.shape[1], large.shape[2])] if is_edit else [],
        )
        logits = model(batch.ids_BT, batch.positions_3BT, keep=batch.keep_BN).float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch.written_BN.flatten(), reduction="none")
        counts = [codes[0].numel() for codes in written.values()]
        parts = losses.view(len(indices), -1).split([*counts, 1], dim=1)
        return {name: part.mean() for name, part in zip((*written, "end"), parts, strict=True)}


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
        hybrid.release("semantic_vq")
        self.trained, self.stage, self.device = hybrid.autoregressive, stage, keeper.device
        self.held_out_groups = groups(buckets(held_out), 16, limit=HELD_OUT_PICTURES)
        self.weights = {"preview": stage.preview_weight, "large": 1.0, "edit": 1.0, "end": 1 / 64}

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self.sequences.losses(self.trained, indices)
        return self._total(parts), {name: value.detach() for name, value in parts.items()}

    def _total(self, parts: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Cross-entropy in nats a token on pictures never trained on; preview, large grid, edits and end apart."""
        rows: dict[str, list[Tensor]] = {}
        for indices in self.held_out_groups:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                parts = self.known.losses(self.trained, indices)
            for name, value in {"loss": self._total(parts), **parts}.items():
                rows.setdefault(name, []).extend([value] * len(indices))
        return {name: torch.stack(values).mean().item() for name, values in rows.items()}

    def compile(self) -> None:
        allow_shapes()
        for layer in self.trained.language_model.layers:
            layer.compile(dynamic=False)
