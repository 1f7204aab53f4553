"""The autoregressive stage: next-token prediction over preview, large grid and end, at image positions only.

Inputs are built as inference builds them. The loss is ours: the published model's own `labels=` path views 16,512
output columns as 168,064 and fails. B batch, N written tokens (preview, large, end), V output columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.config import AutoregressiveStage
from glmkit.generation.sequence import PromptTokenizer, training_batch
from glmkit.models.autoregressive import AutoregressiveModel
from glmkit.models.semantic_vq import SemanticTokenizer
from glmkit.training import cache
from glmkit.training.data import Pictures, by_size, groups
from glmkit.training.objectives import Objective

HELD_OUT_PICTURES = 64


class Sequences:
    """Prompt ids and own codes of every picture, and the teacher-forced loss on them."""

    def __init__(
        self, pictures: Pictures, semantic_vq: SemanticTokenizer, tokenizer: PromptTokenizer, device: torch.device
    ) -> None:
        self.large = cache.large_cache(semantic_vq, pictures, device)
        self.preview = cache.preview_cache(semantic_vq, pictures, device)
        self.prompts: list[list[int]] = [[] for _ in pictures.captions]
        for size, members in by_size(pictures.sizes).items():
            ids = tokenizer.text_to_image_batch([pictures.captions[index] for index in members], *size)
            for index, prompt in zip(members, ids, strict=True):
                self.prompts[index] = prompt
        # One length for every batch: a compiled model then has one shape a picture size.
        self.prompt_length = -(-max(map(len, self.prompts)) // 16) * 16

    def losses(self, model: AutoregressiveModel, indices: Sequence[int]) -> dict[str, Tensor]:
        """Mean cross-entropy in nats a token over preview, large grid and end."""
        preview, large = self.preview[indices].long(), self.large[indices].long()
        prompts = [self.prompts[index] for index in indices]
        batch = training_batch(prompts, [preview, large], model.config, self.prompt_length)
        logits = model(batch.ids_BT, batch.positions_3BT, keep=batch.keep_BN).float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch.written_BN.flatten(), reduction="none")
        count = preview[0].numel()
        of_preview, of_large, of_end = losses.view(len(prompts), -1).split([count, large[0].numel(), 1], dim=1)
        return {"preview": of_preview.mean(), "large": of_large.mean(), "end": of_end.mean()}


class AutoregressiveObjective(Objective):
    def __init__(
        self,
        autoregressive: AutoregressiveModel,
        semantic_vq: SemanticTokenizer,
        tokenizer: PromptTokenizer,
        pictures: Pictures,
        held_out: Pictures,
        stage: AutoregressiveStage,
        device: torch.device,
    ) -> None:
        self.trained, self.stage, self.device = autoregressive, stage, device
        self.sequences = Sequences(pictures, semantic_vq, tokenizer, device)
        self.known = Sequences(held_out, semantic_vq, tokenizer, device)
        self.held_out_groups = groups(held_out.sizes, 16, limit=HELD_OUT_PICTURES)

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self.sequences.losses(self.trained, indices)
        return self._total(parts), {name: value.detach() for name, value in parts.items()}

    def _total(self, parts: dict[str, Tensor]) -> Tensor:
        return self.stage.preview_weight * parts["preview"] + parts["large"] + parts["end"] / 64

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Cross-entropy in nats a token on pictures never trained on; preview, large grid and end apart."""
        rows = []
        for indices in self.held_out_groups:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                parts = self.known.losses(self.trained, indices)
            rows += [torch.stack([self._total(parts), *parts.values()])] * len(indices)
        values = torch.stack(rows).mean(dim=0).tolist()
        return dict(zip(("loss", "preview", "large", "end"), values, strict=True))

    def compile(self) -> None:
        for layer in self.trained.language_model.layers:
            layer.compile(dynamic=False)
