"""Make the `processor/` folder of a new checkpoint: tokenizer, chat template and image settings, in published form.

The published vocabulary starts with the codebook, so that the head of the language model can stop after it: prior
tokens `<|dit_token_0|>` ..., the start and the end of an image, spares, then everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.files import atomic_path, write_json

PRIOR_TOKEN = "<|dit_token_{}|>"
# After the codebook: start and end of an image and 126 spares, as in the published head (16512 = 16384 + 128).
EXTRA_TOKENS = 128
GRID_START, GRID_END = "<sop>", "<eop>"
IMAGE, PAD = "<|image|>", "<|endoftext|>"
SPECIAL_TOKENS = 4  # padding, start and end of a grid, image
BYTES = 256
# What is tokenized one character at a time: all that is not ASCII, and what stands between double quotes: characters
# that an odd number of straight quotes follows, or a closing quote before the next opening one.
SPELT_OUT = (
    r"[^\x00-\x7F]"
    r'|[^"](?=[^"]*+"(?>(?:[^"]*+"[^"]*+")*+)[^"]*+\z)'
    "|[^“”](?=[^“”]*+”)|[^「」](?=[^「」]*+」)"
)

TEMPLATE = """\
{%- for message in messages -%}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for part in message.content -%}
      {%- if part.type == 'image' -%}
        {{- 'START|image|END' -}}
      {%- elif part.type == 'text' -%}
        {{- part.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True)
class ProcessorIds:
    """The ids that a model's config must repeat. Prior tokens are 0 .. image_start_token_id - 1."""

    vocab_size: int
    vision_vocab_size: int
    image_start_token_id: int
    image_end_token_id: int
    image_token_id: int
    pad_token_id: int


def build_processor(
    folder: Path | str, corpus: Iterable[str], codebook_size: int, vocab_size: int, min_pixels: int, max_pixels: int
) -> ProcessorIds:
    """Make a tokenizer of the commonest words of `corpus` and write the folder that `GlmImageProcessor` loads.

    Quoted texts, rare words and all that is not ASCII are tokenized letter by letter: a small model learns to spell
    from letters, and not from pieces of words (arXiv:2212.10562). `vocab_size` is the most entries that the vocabulary
    may have, the codebook included (a small corpus gives fewer); `min_pixels` and `max_pixels` bound condition images
    before they are halved. Returns the ids of the special tokens.
    """
    least = codebook_size + EXTRA_TOKENS + SPECIAL_TOKENS + BYTES
    if vocab_size < least:
        raise UserError(
            f"a codebook of {codebook_size} needs a vocabulary of at least {least}", found=f"vocab_size={vocab_size}"
        )
    tokenizer = _tokenizer(corpus, codebook_size, vocab_size)
    start, end = PRIOR_TOKEN.format(codebook_size), PRIOR_TOKEN.format(codebook_size + 1)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "tokenizer.json") as path:
        tokenizer.save(str(path), pretty=False)
    write_json(folder / "tokenizer_config.json", _tokenizer_config(start, end))
    write_json(folder / "preprocessor_config.json", _preprocessor_config(min_pixels, max_pixels))
    with atomic_path(folder / "chat_template.jinja") as path:
        path.write_text(TEMPLATE.replace("START|image|END", start + IMAGE + end), encoding="utf-8")
    return ProcessorIds(
        vocab_size=tokenizer.get_vocab_size(),
        vision_vocab_size=codebook_size + EXTRA_TOKENS,
        image_start_token_id=codebook_size,
        image_end_token_id=codebook_size + 1,
        image_token_id=tokenizer.token_to_id(IMAGE),
        pad_token_id=tokenizer.token_to_id(PAD),
    )


def _tokenizer(corpus: Iterable[str], codebook_size: int, vocab_size: int) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    names = [PRIOR_TOKEN.format(index) for index in range(codebook_size + EXTRA_TOKENS)]
    names += [PAD, GRID_START, GRID_END, IMAGE]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPELT_OUT), "isolated"), byte_level])
    counts = Counter(piece for text in corpus for piece, _ in splitter.pre_tokenize_str(text) if len(piece) > 1)
    entries = [*names, *sorted(byte_level.alphabet()), *sorted(counts, key=lambda piece: (-counts[piece], piece))]
    vocabulary = {entry: index for index, entry in enumerate(entries[:vocab_size])}
    # Without merges, what is no entry is taken apart into bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer


def _tokenizer_config(start: str, end: str) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "GlmImageProcessor",
        "bos_token": start,
        "eos_token": end,
        "pad_token": PAD,
        "extra_special_tokens": {"image_token": IMAGE, "grid_bos_token": GRID_START, "grid_eos_token": GRID_END},
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
    }


def _preprocessor_config(min_pixels: int, max_pixels: int) -> dict[str, object]:
    return {
        "image_processor_type": "GlmImageImageProcessor",
        "processor_class": "GlmImageProcessor",
        "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
        "patch_size": 16,
        "merge_size": 1,
        "temporal_patch_size": 1,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
