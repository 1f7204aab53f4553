"""Teacher-forced sequences of training images, as the autoregressive model is given them: padded, or packed.

Batches of one size and kind are padded to their longest prompt. That is little where captions are alike: 2 % of the
tokens for 1024x1024 posters with captions of 57 to 84 tokens. Photographs in 50 sizes with prompts of 30 to 190 tokens
lose 9 %, and 19 % of the images shown only fill up the batches of their sizes; captions of a describing model lose
45 %. Packed, images of any size stand one after the other in one row, and nothing is lost.

B batch, T tokens, N written tokens (preview, large, end) of a sequence, K of all of a row, V outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import (
    PromptTokenizer,
    TrainingBatch,
    TrainingSequence,
    training_batch,
    training_sequence,
)
from glmkit.models import checkpoint
from glmkit.models.autoregressive.config import AutoregressiveConfig
from glmkit.models.autoregressive.model import AutoregressiveModel
from glmkit.models.hybrid import HybridModel
from glmkit.training import features
from glmkit.training.data import ImageDataset, asked_for, by_size


class Sheet(Protocol):
    """The sequences of some images."""

    def logits(self, model: AutoregressiveModel) -> Tensor:
        """B N V or 1 K V, float32: of the written tokens only."""

    def losses(self, logits: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropy in nats a token of each part (preview, large, edit, end), a number for each image that
        has it."""

    def mean(self, numbers: Tensor) -> Tensor:
        """Of one number a written token, B N or 1 K: the mean over the images of each one's own mean."""


@dataclass(frozen=True)
class Padded:
    """Sequences of one kind, a row each. `counts`: how many of the written columns belong to each part, in order."""

    batch: TrainingBatch
    counts: dict[str, int]

    def logits(self, model: AutoregressiveModel) -> Tensor:
        return model(self.batch.ids_BT, self.batch.positions_3BT, logits_to_keep=self.batch.target_columns_BN).float()

    def losses(self, logits: Tensor) -> dict[str, Tensor]:
        written_BN = self.batch.target_ids_BN
        nats_BN = F.cross_entropy(logits.flatten(0, 1), written_BN.flatten(), reduction="none").view_as(written_BN)
        parts = nats_BN.split(list(self.counts.values()), dim=1)
        return {name: part.mean(dim=1) for name, part in zip(self.counts, parts, strict=True)}

    def mean(self, numbers: Tensor) -> Tensor:
        return numbers.mean()


@dataclass(frozen=True)
class Packed:
    """Sequences of any kinds in one row. `counts`: of each sequence, as in `Padded`."""

    sequences: list[TrainingSequence]
    counts: list[dict[str, int]]

    def logits(self, model: AutoregressiveModel) -> Tensor:
        ids_T = torch.cat([one.ids_T for one in self.sequences])
        positions_3T = torch.cat([one.positions_3T for one in self.sequences], dim=1)
        lengths = [len(one.ids_T) for one in self.sequences]
        ends = torch.tensor(lengths).cumsum(0).tolist()
        # What is written stands at the end of each sequence, and is told by the token before.
        keep = [torch.arange(end - 1 - sum(own.values()), end - 1) for end, own in zip(ends, self.counts, strict=True)]
        kept_K = torch.cat(keep).to(ids_T.device)
        return model(ids_T[None], positions_3T[:, None], logits_to_keep=kept_K, sequence_lengths=lengths).float()

    def losses(self, logits: Tensor) -> dict[str, Tensor]:
        totals = [sum(own.values()) for own in self.counts]
        written = [one.ids_T[-total:] for one, total in zip(self.sequences, totals, strict=True)]
        nats_K = F.cross_entropy(logits[0], torch.cat(written), reduction="none")
        losses: dict[str, list[Tensor]] = {}
        for nats, own in zip(nats_K.split(totals), self.counts, strict=True):
            for name, part in zip(own, nats.split(list(own.values())), strict=True):
                losses.setdefault(name, []).append(part.mean())
        return {name: torch.stack(values) for name, values in losses.items()}

    def mean(self, numbers: Tensor) -> Tensor:
        own = numbers[0].split([sum(own.values()) for own in self.counts])
        return torch.stack([one.mean() for one in own]).mean()


class Sequences:
    """Prompt ids and own codes of every image. `bare` are the prompts without their captions: sizes, and the source
    of an edit."""

    def __init__(
        self, images: ImageDataset, hybrid: HybridModel, cache: features.FeatureCache, *, with_preview: bool = True
    ) -> None:
        self.large = features.precompute_large_tokens(hybrid, images, cache)
        self.preview = features.precompute_preview_tokens(hybrid, images, cache) if with_preview else None
        self.condition_images = images.condition_images
        settings = checkpoint.config(
            hybrid.folder, "autoregressive"
        )  # the model is not there while tokens are computed
        self.config = AutoregressiveConfig.from_dict(dict(settings))
        self.prompts: list[list[int]] = [[] for _ in images.captions]
        self.bare: list[list[int]] = [[] for _ in images.captions]
        # With one length for every batch of a kind a compiled model has one shape an image size.
        self.one_shape, self.prompt_length = False, {False: 0, True: 0}
        tokenizer = prompt_tokenizer(hybrid.folder)
        for kind, members in by_size(asked_for(images)).items():
            captions = [images.captions[index] for index in members]
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
        codes = self.large[[self.condition_images[index] for index in members]].long().cpu()
        return tokenizer.edit_batch(captions, [[own] for own in codes], height, width)

    def padded(self, indices: Sequence[int], dropped: Sequence[bool] = ()) -> Padded:
        """The sequences of images of one kind; those that are `dropped` have no caption."""
        is_edit = indices[0] in self.condition_images
        written = {name: codes.long() for name, codes in self._written(indices).items()}
        grids = [(int(written["edit"].shape[1]), int(written["edit"].shape[2]))] if is_edit else []
        length = self.prompt_length[is_edit] if self.one_shape else None
        prompts = self._chosen(indices, dropped)
        batch = training_batch(prompts, list(written.values()), self.config, length, grids)
        return Padded(batch, {**{name: codes[0].numel() for name, codes in written.items()}, "end": 1})

    def packed(self, indices: Sequence[int], dropped: Sequence[bool] = ()) -> Packed:
        """The sequences of images of any kinds; those that are `dropped` have no caption."""
        sequences, counts = [], []
        for index, prompt in zip(indices, self._chosen(indices, dropped), strict=True):
            written = {name: codes[0].long() for name, codes in self._written([index]).items()}
            grids = [(int(written["edit"].shape[0]), int(written["edit"].shape[1]))] if "edit" in written else []
            sequences.append(training_sequence(prompt, list(written.values()), self.config, grids))
            counts.append({**{name: codes.numel() for name, codes in written.items()}, "end": 1})
        return Packed(sequences, counts)

    def _written(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The codes B h w that the model has to write, in order."""
        if indices[0] in self.condition_images:
            return {"edit": self.large[indices]}
        large = {"large": self.large[indices]}
        return large if self.preview is None else {"preview": self.preview[indices], **large}

    def _chosen(self, indices: Sequence[int], dropped: Sequence[bool]) -> list[list[int]]:
        left_out = dropped or [False] * len(indices)
        return [(self.bare if out else self.prompts)[index] for index, out in zip(indices, left_out, strict=True)]
