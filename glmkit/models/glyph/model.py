"""Glyph embeddings: the quoted texts of a prompt, byte by byte through ByT5's encoder.

The rules are those of diffusers 0.42 (`GlmImagePipeline.get_glyph_texts` and `_get_glyph_embeds`), with one difference:
a mask tells padding from text, so a prompt has the same embeddings alone and in any batch.

Shapes: B prompts, U different spans, T glyph tokens of the longest prompt, D width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ByT5Tokenizer, T5EncoderModel

# Opening and closing quote, in the order in which the published code collects the spans.
QUOTES = (("'", "'"), ("“", "”"), ('"', '"'), ("「", "」"))
MAX_SPAN_TOKENS = 2048
PADDING, END, FIRST_BYTE = 0, 1, 3  # ByT5's ids: padding, end, unknown, then the 256 bytes


def quoted_texts(prompt: str) -> list[str]:
    """The texts between quotes, first all of '...', then “...”, "...", 「...」.

    An apostrophe counts as a quote, as in the published code: `It's a dog's day` gives `s a dog`.
    """
    return [
        span
        for opening, closing in QUOTES
        for span in re.findall(f"{opening}([^{opening}{closing}]*){closing}", prompt)
    ]


class GlyphEncoder(nn.Module):
    """A stock T5 encoder and ByT5 tokenizer, run over whole batches of prompts at once."""

    def __init__(self, encoder: T5EncoderModel, tokenizer: ByT5Tokenizer) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer

    def forward(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings B T D of the prompts' quoted texts and their mask B T; see `from_spans`."""
        return self.from_spans([quoted_texts(prompt) for prompt in prompts])

    def from_spans(self, prompts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Embeddings B T D of each prompt's spans one after the other, and a mask B T, False on padding.

        Rows are padded on the left with zeros. A prompt without spans, and the unconditional one, is one empty span.
        Every span is encoded on its own; equal spans of a batch are encoded once.
        """
        numbers: dict[tuple[str, bool], int] = {}
        rows = [[numbers.setdefault(span, len(numbers)) for span in _with_padding(spans)] for spans in prompts]
        tokens = [self._tokens(span, padded) for span, padded in numbers]
        lengths = np.array([len(ids) for ids in tokens])

        device = self.encoder.device
        real = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(real.shape, PADDING)
        ids[real] = np.fromiter(chain.from_iterable(tokens), dtype=ids.dtype, count=lengths.sum())
        hidden = self.encoder(_to(ids, device), attention_mask=_to(real.astype(np.int64), device)).last_hidden_state
        source, mask = (_to(array, device) for array in _placement(rows, lengths))
        return hidden.flatten(0, 1)[source] * mask[..., None], mask

    def token_ids(self, prompts: Sequence[Sequence[str]]) -> np.ndarray:
        """The tokens of each prompt's spans, one span a row: B S T int16 for the most spans S, -1 behind the tokens."""
        rows = [[self._tokens(*span) for span in _with_padding(spans)] for spans in prompts]
        most, longest = max(map(len, rows)), max(len(tokens) for row in rows for tokens in row)
        ids = np.full((len(rows), most, longest), -1, dtype=np.int16)
        for prompt, row in enumerate(rows):
            for place, tokens in enumerate(row):
                ids[prompt, place, : len(tokens)] = tokens
        return ids

    def from_token_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings B S*T D and mask B S*T of `token_ids`: those of `from_spans` but for where the padding stands.

        The decoder gives glyph tokens no position, so both draw the same image. This one has few shapes, and no
        work on the CPU: for training.
        """
        real = ids >= 0
        attended = real.flatten(0, 1).clone()
        attended[:, 0] = True  # also in a span that is not there: attention to nothing at all is not a number
        tokens = ids.long().clamp(min=PADDING).flatten(0, 1)
        hidden = self.encoder(tokens, attention_mask=attended.long()).last_hidden_state
        return (hidden.unflatten(0, real.shape[:2]) * real[..., None]).flatten(1, 2), real.flatten(1)

    def _tokens(self, span: str, padded: bool) -> list[int]:
        if "<" in span:  # may spell a special token, which the tokenizer reads as one
            ids = self.tokenizer(span, max_length=MAX_SPAN_TOKENS, truncation=True).input_ids
        else:
            ids = [*(byte + FIRST_BYTE for byte in span.encode()[: MAX_SPAN_TOKENS - 1]), END]
        return [PADDING, *ids] if padded else ids


def _with_padding(spans: Sequence[str]) -> list[tuple[str, bool]]:
    """The spans of one prompt, one empty span for none, each with whether it begins with a padding token.

    Published rule: with an even number of spans each does, and it is attended to.
    """
    return [(span, len(spans) % 2 == 0) for span in spans] or [("", False)]


def _placement(rows: list[list[int]], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each prompt's tokens come from: indices B T into the flattened U x T_span tokens, and the mask B T.

    `rows` holds the number of every span of each prompt, `lengths` (U) the tokens of every span.
    """
    spans = np.array([number for row in rows for number in row])
    prompt_of_span = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    per_prompt = np.bincount(prompt_of_span, weights=lengths[spans]).astype(np.int64)

    offset = _count_up(lengths[spans])
    flat = np.repeat(spans, lengths[spans]) * lengths.max() + offset
    mask = np.arange(per_prompt.max()) >= (per_prompt.max() - per_prompt)[:, None]
    source = np.zeros(mask.shape, dtype=np.int64)
    source[mask] = flat
    return source, mask


def _count_up(counts: np.ndarray) -> np.ndarray:
    """0 1 .. counts[0]-1, 0 1 .. counts[1]-1, ..."""
    return np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # from pinned memory the copy does not wait for what the GPU is doing
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
