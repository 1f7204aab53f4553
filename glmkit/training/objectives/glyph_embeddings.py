"""The glyph embeddings of training captions: of a frozen encoder computed once, of a learning one at every step.

B batch, S texts of a prompt, T glyph tokens of a text, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.hashing import json_sha256
from glmkit.models.devices import dtype_for
from glmkit.models.glyph.model import GlyphEncoder
from glmkit.models.hybrid import HybridModel
from glmkit.training import features

NO_TEXT = -1  # in place of a caption: the empty text, as in the unconditional half of classifier-free guidance
TOKEN_MULTIPLE = 16  # of a batch's glyph tokens: few shapes to compile
ENCODED_AT_ONCE = 64  # captions


class Glyphs(Protocol):
    """Glyph embeddings of the texts of captions."""

    one_shape: bool
    """Whether batches are padded to a multiple of 16 tokens, for a compiled model; otherwise as little as possible."""

    def embeddings(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Return embeddings B S*T D of the captions `indices` (or NO_TEXT) and their mask B S*T.

        The mask is False on padding, and None where nothing is padded.
        """

    def pack(self, indices: Sequence[int], embeddings: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Leave out what needs no attention of the embeddings and mask that `embeddings` returned."""


class GlyphTokens:
    """The tokens of every caption's texts, on the CPU, and the encoder that learns to embed them."""

    one_shape = True

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._texts = [*texts, []]

    def attach(self, encoder: GlyphEncoder) -> None:
        """Take the encoder, once it is there and adapted."""
        self.encoder = _without_dropout(encoder)
        self._device = next(encoder.parameters()).device
        self._ids = encoder.tokenize(self._texts)

    def _padded_ids(self, indices: Sequence[int]) -> np.ndarray:
        """Return token ids B S T int16; -1 is no token."""
        ids = self._ids[np.asarray(indices)]
        lengths = (ids >= 0).sum(axis=-1).max(axis=0)
        ids = ids[:, : np.count_nonzero(lengths), : lengths.max()]
        return np.pad(ids, ((0, 0), (0, 0), (0, -ids.shape[-1] % TOKEN_MULTIPLE)), constant_values=-1)

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        """Return token ids B S T int16; -1 is no token."""
        return torch.from_numpy(self._padded_ids(indices)).to(self._device, non_blocking=True)

    def embeddings(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embed the texts of some captions, with gradients."""
        return self.encoder.encode_token_ids(self[indices])

    def pack(self, indices: Sequence[int], embeddings: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return embeddings B P D and mask B P with each caption's tokens in front, and P the most that one has.

        With several texts most of B S*T is padding. The decoder gives glyph tokens no position, so their order is free.
        """
        if mask is None:
            return embeddings, None
        # Counted on the CPU, so that nothing waits for the GPU.
        real = (self._padded_ids(indices) >= 0).reshape(len(indices), -1)
        longest = -(-int(real.sum(axis=1).max()) // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
        order = torch.from_numpy(np.argsort(~real, axis=1, kind="stable")[:, :longest].copy())
        order = order.to(embeddings.device, non_blocking=True)
        return embeddings.gather(1, order[..., None].expand(-1, -1, embeddings.shape[-1])), mask.gather(1, order)


def _without_dropout(encoder: GlyphEncoder) -> GlyphEncoder:
    """Leave no dropout but that of the recipe, `lora.dropout`.

    By the published config's rate of 0.1, adapted and plain embeddings would differ by chance, as would those of
    several processes.
    """
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Dropout) and ".lora_dropout" not in name:
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # attention's
            module.dropout = 0.0
    return encoder


class GlyphEmbeddings:
    """The embeddings of every caption's texts by an encoder that does not change, equal texts stored once.

    They are stored with zeros in front, up to a multiple of 16 tokens; no token has an embedding of zeros.
    """

    def __init__(self, hybrid: HybridModel, texts: Sequence[Sequence[str]], cache: features.FeatureCache) -> None:
        numbers: dict[tuple[str, ...], int] = {}
        self._numbers = [numbers.setdefault(tuple(spans), len(numbers)) for spans in [*texts, ()]]
        self.one_shape, self._lengths = False, dict[int, int]()
        different = list(numbers)
        sizes = [(len(spans), _max_tokens(spans)) for spans in different]
        dtype = dtype_for(cache.device)

        def encode(chosen: list[int]) -> Tensor:
            embeddings, _ = hybrid.glyph.encode_texts([different[number] for number in chosen])
            return F.pad(embeddings, (0, 0, sizes[chosen[0]][1] - embeddings.shape[1], 0)).to(dtype)

        self._embeddings = cache.precompute(
            "glyph embeddings",
            sizes,
            encode,
            batch_size=lambda _: ENCODED_AT_ONCE,
            keys=[json_sha256(spans)[:32] for spans in different],
            depends_on=lambda: features.computed_by(hybrid, "glyph"),
        )

    def embeddings(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Batch the embeddings of some captions."""
        numbers = [self._numbers[index] for index in indices]
        captions = [self._embeddings[[number]][0] for number in numbers]
        if not self.one_shape:
            # Attention without a mask is faster: a batch of one, or of equal lengths, needs none.
            lengths = [self._length(number, stored) for number, stored in zip(numbers, captions, strict=True)]
            captions = [stored[-length:] for stored, length in zip(captions, lengths, strict=True)]
            if min(lengths) == max(lengths):
                return torch.stack(captions), None
        longest = max(map(len, captions))
        padded = torch.stack([F.pad(stored, (0, 0, longest - len(stored), 0)) for stored in captions])
        return padded, padded.any(dim=-1)

    def pack(
        self,
        indices: Sequence[int],  # noqa: ARG002
        embeddings: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return them as they are: no longer than the longest."""
        return embeddings, mask

    def _length(self, number: int, stored: Tensor) -> int:
        """Count the tokens; on the device, when first asked for."""
        if number not in self._lengths:
            self._lengths[number] = int(stored.any(dim=-1).sum())
        return self._lengths[number]


def _max_tokens(spans: Sequence[str]) -> int:
    """Bound the tokens of a caption's texts: one per byte, an end per text, and maybe a padding token before it."""
    most = sum(len(span.encode()) + 2 for span in spans) + 1
    return -(-most // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
