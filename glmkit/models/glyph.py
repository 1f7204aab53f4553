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


def quoted_spans(prompt: str) -> list[str]:
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
        return self.from_spans([quoted_spans(prompt) for prompt in prompts])

    def from_spans(self, prompts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Embeddings B T D of each prompt's spans one after the other, and a mask B T, False on padding.

        Rows are padded on the left with zeros. A prompt without spans, and the unconditional one, is one empty span.
        Every span is encoded on its own; equal spans of a batch are encoded once.
        """
        numbers: dict[tuple[str, bool], int] = {}
        rows = []
        for spans in prompts:
            spans = spans or [""]
            # Published rule: with an even number of spans, each begins with a padding token that is attended to.
            padded = len(spans) % 2 == 0
            rows.append([numbers.setdefault((span, padded), len(numbers)) for span in spans])
        tokens = [self._tokens(span, padded) for span, padded in numbers]
        lengths = np.array([len(ids) for ids in tokens])

        device = self.encoder.device
        real = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(real.shape, PADDING)
        ids[real] = np.fromiter(chain.from_iterable(tokens), dtype=ids.dtype, count=lengths.sum())
        hidden = self.encoder(_to(ids, device), attention_mask=_to(real.astype(np.int64), device)).last_hidden_state
        source, mask = (_to(array, device) for array in _placement(rows, lengths))
        return hidden.flatten(0, 1)[source] * mask[..., None], mask

    def _tokens(self, span: str, padded: bool) -> list[int]:
        if "<" in span:  # may spell a special token, which the tokenizer reads as one
            ids = self.tokenizer(span, max_length=MAX_SPAN_TOKENS, truncation=True).input_ids
        else:
            ids = [*(byte + FIRST_BYTE for byte in span.encode()[: MAX_SPAN_TOKENS - 1]), END]
        return [PADDING, *ids] if padded else ids


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
