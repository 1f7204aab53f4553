"""Glyph embeddings: the quoted texts of a prompt, byte by byte through ByT5's encoder.

The rules are those of diffusers 0.42 (`GlmImagePipeline.get_glyph_texts` and `_get_glyph_embeds`), with one difference:
a mask tells padding from text, so a prompt has the same embeddings alone and in any batch.

Shapes as in `glmkit.models`; here B are prompts, U different texts, Q the most texts of one prompt, T the glyph tokens
of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ByT5Tokenizer, T5EncoderModel

from glmkit.inputs.quotes import quoted_texts

MAX_TEXT_TOKENS = 2048
PADDING, END, FIRST_BYTE = 0, 1, 3  # ByT5's ids: padding, end, unknown, then the 256 bytes


class GlyphEncoder(nn.Module):
    """The T5 encoder and ByT5 tokenizer of transformers, run over whole batches of prompts at once."""

    def __init__(self, encoder: T5EncoderModel, tokenizer: ByT5Tokenizer) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer

    def forward(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return embeddings B T D of the prompts' quoted texts and their mask B T; see `encode_texts`."""
        return self.encode_texts([quoted_texts(prompt) for prompt in prompts])

    def encode_texts(self, prompts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Return embeddings B T D of each prompt's texts one after the other, and a mask B T, False on padding.

        Prompts are padded on the left with zeros. A prompt without texts, and the unconditional one, is one empty text.
        Every text is encoded on its own; equal texts of a batch are encoded once.
        """
        numbers: dict[tuple[str, bool], int] = {}
        numbered = [[numbers.setdefault(text, len(numbers)) for text in _with_padding(texts)] for texts in prompts]
        tokens = [self._tokens(text, padded) for text, padded in numbers]
        lengths = np.array([len(ids) for ids in tokens])

        device = self.encoder.device
        real = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(real.shape, PADDING)
        ids[real] = np.fromiter(chain.from_iterable(tokens), dtype=ids.dtype, count=lengths.sum())
        hidden = self.encoder(_to(ids, device), attention_mask=_to(real.astype(np.int64), device)).last_hidden_state
        indices, mask = (_to(array, device) for array in _positions(numbered, lengths))
        return hidden.flatten(0, 1)[indices] * mask[..., None], mask

    def tokenize(self, prompts: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the tokens of each prompt's texts apart: B Q T int16, -1 behind the tokens."""
        tokens = [[self._tokens(*text) for text in _with_padding(texts)] for texts in prompts]
        most, longest = max(map(len, tokens)), max(len(of_text) for of_prompt in tokens for of_text in of_prompt)
        ids = np.full((len(tokens), most, longest), -1, dtype=np.int16)
        for prompt, of_prompt in enumerate(tokens):
            for number, of_text in enumerate(of_prompt):
                ids[prompt, number, : len(of_text)] = of_text
        return ids

    def encode_token_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings B Q*T D and mask B Q*T of what `tokenize` gave.

        They are those of `encode_texts` but for where the padding stands. The decoder gives glyph tokens no position,
        so both generate the same image. This one has few shapes, and no work on the CPU: for training.
        """
        real = ids >= 0
        attended = real.flatten(0, 1).clone()
        attended[:, 0] = True  # also in a text that is not there: attention to nothing at all is not a number
        tokens = ids.long().clamp(min=PADDING).flatten(0, 1)
        hidden = self.encoder(tokens, attention_mask=attended.long()).last_hidden_state
        return (hidden.unflatten(0, real.shape[:2]) * real[..., None]).flatten(1, 2), real.flatten(1)

    def _tokens(self, text: str, padded: bool) -> list[int]:
        if "<" in text:  # may spell a special token, which the tokenizer reads as one
            ids = self.tokenizer(text, max_length=MAX_TEXT_TOKENS, truncation=True).input_ids
        else:
            ids = [*(byte + FIRST_BYTE for byte in text.encode()[: MAX_TEXT_TOKENS - 1]), END]
        return [PADDING, *ids] if padded else ids


def _with_padding(texts: Sequence[str]) -> list[tuple[str, bool]]:
    """Return the texts of one prompt, one empty text for none, each with whether it begins with a padding token.

    Published rule: with an even number of texts each does, and it is attended to.
    """
    return [(text, len(texts) % 2 == 0) for text in texts] or [("", False)]


def _positions(numbered: list[list[int]], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each prompt's tokens come from: indices B T into the tokens of all texts, flattened, and the mask.

    `numbered` holds the number of every text of each prompt, `lengths` (U) the tokens of every text.
    """
    texts = np.array([number for of_prompt in numbered for number in of_prompt])
    prompt_of_text = np.repeat(np.arange(len(numbered)), [len(of_prompt) for of_prompt in numbered])
    per_prompt = np.bincount(prompt_of_text, weights=lengths[texts]).astype(np.int64)

    offset = _count_up(lengths[texts])
    flat = np.repeat(texts, lengths[texts]) * lengths.max() + offset
    mask = np.arange(per_prompt.max()) >= (per_prompt.max() - per_prompt)[:, None]
    indices = np.zeros(mask.shape, dtype=np.int64)
    indices[mask] = flat
    return indices, mask


def _count_up(counts: np.ndarray) -> np.ndarray:
    """Return 0 1 .. counts[0]-1, 0 1 .. counts[1]-1, ..."""
    starts: np.ndarray = np.repeat(counts.cumsum() - counts, counts)
    return np.arange(counts.sum()) - starts


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # from pinned memory the copy does not wait for what the GPU is doing
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
