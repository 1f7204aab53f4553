"""Teacher-forced sequences of training images, as the autoregressive model is given them: padded, or packed.

Batches of one size and kind are padded to their longest prompt. That is little where captions are alike: 2 % of the
tokens for 1024x1024 posters with captions of 57 to 84 tokens. Photographs in 50 sizes with prompts of 30 to 190 tokens
lose 9 %, and 19 % of the images shown only fill up the batches of their sizes; captions of a describing model lose
45 %. Packed, images of any size stand one after the other in one sequence, and nothing is lost.

B batch, T tokens, N image tokens (preview, large grid, end) of a sequence, M of all packed sequences, V outputs,
H W token rows and columns.
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
    Grid,
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
from glmkit.training.data import ImageDataset, Kind, by_size, kinds_with_caption

PROMPT_MULTIPLE = 16  # of padded prompts: few shapes to compile


class TokenBatch(Protocol):
    """The sequences of some images."""

    def logits(self, model: AutoregressiveModel) -> Tensor:
        """Predict the image tokens alone: B N V or 1 M V, float32."""

    def cross_entropies(self, logits: Tensor) -> dict[str, Tensor]:
        """Return the mean cross-entropy per token of each part (preview, large, edit, end), one number for each
        image that has it.
        """

    def image_mean(self, values: Tensor) -> Tensor:
        """Average one value per image token, B N or 1 M, over the tokens of each image, then over the images."""


@dataclass(frozen=True)
class PaddedBatch:
    """Sequences of one kind, padded. `lengths`: how many of the image tokens belong to each part, in order."""

    batch: TrainingBatch
    lengths: dict[str, int]

    def logits(self, model: AutoregressiveModel) -> Tensor:
        """Predict B N V."""
        logits: Tensor = model(self.batch.ids_BT, self.batch.positions_3BT, logits_to_keep=self.batch.target_columns_BN)
        return logits.float()

    def cross_entropies(self, logits: Tensor) -> dict[str, Tensor]:
        """Return the means of each part, B."""
        targets_BN = self.batch.target_ids_BN
        values_BN = F.cross_entropy(logits.flatten(0, 1), targets_BN.flatten(), reduction="none").view_as(targets_BN)
        parts = torch.split(values_BN, list(self.lengths.values()), dim=1)
        return {name: part.mean(dim=1) for name, part in zip(self.lengths, parts, strict=True)}

    def image_mean(self, values: Tensor) -> Tensor:
        """Average B N: every image has as many tokens."""
        return values.mean()


@dataclass(frozen=True)
class PackedBatch:
    """Sequences of any kinds, one after the other. `lengths`: of each sequence, as in `PaddedBatch`."""

    sequences: list[TrainingSequence]
    lengths: list[dict[str, int]]

    @property
    def image_tokens(self) -> list[int]:
        """Tell how many image tokens each sequence has."""
        return [sum(lengths.values()) for lengths in self.lengths]

    def logits(self, model: AutoregressiveModel) -> Tensor:
        """Predict 1 M V."""
        ids_T = torch.cat([sequence.ids_T for sequence in self.sequences])
        positions_3T = torch.cat([sequence.positions_3T for sequence in self.sequences], dim=1)
        sequence_lengths = [len(sequence.ids_T) for sequence in self.sequences]
        ends = torch.tensor(sequence_lengths).cumsum(0).tolist()
        # Image tokens stand at the end of each sequence, and are predicted from the token before.
        keep = [torch.arange(end - 1 - count, end - 1) for end, count in zip(ends, self.image_tokens, strict=True)]
        keep_M = torch.cat(keep).to(ids_T.device)
        logits: Tensor = model(
            ids_T[None], positions_3T[:, None], logits_to_keep=keep_M, sequence_lengths=sequence_lengths
        )
        return logits.float()

    def cross_entropies(self, logits: Tensor) -> dict[str, Tensor]:
        """Return the means of each part, as many as there are images that have it."""
        counts = self.image_tokens
        targets = [sequence.ids_T[-count:] for sequence, count in zip(self.sequences, counts, strict=True)]
        values_M = F.cross_entropy(logits[0], torch.cat(targets), reduction="none")
        means: dict[str, list[Tensor]] = {}
        for values, lengths in zip(torch.split(values_M, counts), self.lengths, strict=True):
            for name, part in zip(lengths, torch.split(values, list(lengths.values())), strict=True):
                means.setdefault(name, []).append(part.mean())
        return {name: torch.stack(parts) for name, parts in means.items()}

    def image_mean(self, values: Tensor) -> Tensor:
        """Average 1 M."""
        return torch.stack([part.mean() for part in torch.split(values[0], self.image_tokens)]).mean()


class TokenSequences:
    """Prompts and prior tokens of every image of a data set.

    `unconditional_prompts` are those of dropped captions: the sizes, and the condition image of an edit.
    """

    def __init__(
        self, images: ImageDataset, hybrid: HybridModel, cache: features.FeatureCache, *, with_preview: bool = True
    ) -> None:
        self.large = features.precompute_large_tokens(hybrid, images, cache)
        self.preview = features.precompute_preview_tokens(hybrid, images, cache) if with_preview else None
        self.condition_images = images.condition_images
        # The model is not there while tokens are computed.
        self.config = AutoregressiveConfig.from_dict(dict(checkpoint.config(hybrid.folder, "autoregressive")))
        self.prompts: list[list[int]] = [[] for _ in images.captions]
        self.unconditional_prompts: list[list[int]] = [[] for _ in images.captions]
        # With one length for every batch of a kind a compiled model has one shape per image size.
        self.one_shape, self.prompt_length = False, {False: 0, True: 0}
        tokenizer = prompt_tokenizer(hybrid.folder)
        for kind, members in by_size(kinds_with_caption(images)).items():
            captions = [images.captions[index] for index in members]
            prompts = self._tokenize(tokenizer, captions, members, kind)
            without = self._tokenize(tokenizer, [""] * len(members), members, kind)
            for index, prompt, unconditional in zip(members, prompts, without, strict=True):
                self.prompts[index], self.unconditional_prompts[index] = prompt, unconditional
            padded = -(-max(map(len, prompts)) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
            self.prompt_length[bool(kind[2])] = max(self.prompt_length[bool(kind[2])], padded)

    def _tokenize(
        self, tokenizer: PromptTokenizer, captions: list[str], members: list[int], kind: Kind
    ) -> list[list[int]]:
        height, width, condition_sizes = kind
        if not condition_sizes:
            return tokenizer.text_to_image_batch(captions, height, width)
        every = zip(*(self.condition_images[index] for index in members), strict=True)
        tokens = [self.large[chosen].long().cpu() for chosen in every]
        return tokenizer.edit_batch(captions, list(zip(*tokens, strict=True)), height, width)

    def _condition_grids(self, index: int) -> list[Grid]:
        """Return the grids of the condition images of an edit; none of another image."""
        shapes = (self.large[[condition]].shape for condition in self.condition_images.get(index, ()))
        return [(int(rows), int(columns)) for _, rows, columns in shapes]

    def padded(self, indices: Sequence[int], dropped: Sequence[bool] = ()) -> PaddedBatch:
        """Batch images of one kind; those that are `dropped` have no caption."""
        targets = {name: tokens.long() for name, tokens in self._targets(indices).items()}
        length = self.prompt_length[indices[0] in self.condition_images] if self.one_shape else None
        prompts = self._prompts(indices, dropped)
        grids = self._condition_grids(indices[0])
        batch = training_batch(prompts, list(targets.values()), self.config, length, grids)
        return PaddedBatch(batch, {**{name: tokens[0].numel() for name, tokens in targets.items()}, "end": 1})

    def packed(self, indices: Sequence[int], dropped: Sequence[bool] = ()) -> PackedBatch:
        """Pack images of any kinds; those that are `dropped` have no caption."""
        sequences, lengths = [], []
        for index, prompt in zip(indices, self._prompts(indices, dropped), strict=True):
            targets = {name: tokens[0].long() for name, tokens in self._targets([index]).items()}
            grids = self._condition_grids(index)
            sequences.append(training_sequence(prompt, list(targets.values()), self.config, grids))
            lengths.append({**{name: tokens.numel() for name, tokens in targets.items()}, "end": 1})
        return PackedBatch(sequences, lengths)

    def _targets(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return the prior tokens B H W that the model has to predict, in order."""
        if indices[0] in self.condition_images:
            return {"edit": self.large[indices]}
        large = {"large": self.large[indices]}
        return large if self.preview is None else {"preview": self.preview[indices], **large}

    def _prompts(self, indices: Sequence[int], dropped: Sequence[bool]) -> list[list[int]]:
        drops = dropped or [False] * len(indices)
        return [
            (self.unconditional_prompts if drop else self.prompts)[index]
            for index, drop in zip(indices, drops, strict=True)
        ]
