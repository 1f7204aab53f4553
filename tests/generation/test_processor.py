"""A processor folder that we wrote: the published classes load it, its ids are in the published order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glmkit.errors import UserError
from glmkit.generation.processor import ProcessorIds, build_processor
from glmkit.generation.sequence import PromptTokenizer
from glmkit.models.semantic_vq.model import halved_size

CODES = 64
MIN_PIXELS, MAX_PIXELS = 96 * 96, 256 * 256
PROMPTS = ["a red poster with the word 'Hello'", "a sky"]


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProcessorIds]:
    folder = tmp_path_factory.mktemp("processor")
    return folder, build_processor(folder, [*PROMPTS, "a blue circle"], CODES, 600, MIN_PIXELS, MAX_PIXELS)


def reference(folder: Path) -> Any:
    """As diffusers' pipeline finds it: by the class names in the folder."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


def test_reference_pads_on_the_left(processor: tuple[Path, ProcessorIds]) -> None:
    folder, ids = processor
    messages = [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for prompt in PROMPTS]
    size = {"target_h": 256, "target_w": 256, "padding": True}
    inputs = reference(folder).apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", **size
    )
    ours = [PromptTokenizer(folder).text_to_image(prompt, 256, 256) for prompt in PROMPTS]
    longest = max(map(len, ours))
    padded = [[ids.pad_token_id] * (longest - len(row)) + row for row in ours]
    assert len(ours[0]) != len(ours[1])
    assert inputs["input_ids"].tolist() == padded
    assert inputs["attention_mask"].sum(dim=1).tolist() == [len(row) for row in ours]


def test_ids_stand_in_the_published_order(processor: tuple[Path, ProcessorIds]) -> None:
    """Codes come first, then start and end; text never becomes a code."""
    folder, ids = processor
    tokenizer = PromptTokenizer(folder).tokenizer
    assert tokenizer.convert_tokens_to_ids([f"<|dit_token_{index}|>" for index in (0, CODES - 1)]) == [0, CODES - 1]
    assert (ids.image_start_token_id, ids.image_end_token_id) == (CODES, CODES + 1)
    assert tokenizer.convert_tokens_to_ids([tokenizer.bos_token, tokenizer.eos_token]) == [CODES, CODES + 1]
    assert tokenizer.convert_tokens_to_ids([tokenizer.image_token, tokenizer.pad_token]) == [
        ids.image_token_id,
        ids.pad_token_id,
    ]
    assert len(tokenizer) == ids.vocab_size <= 600
    text = "any bytes: \x00 é 海 🙂"
    plain = tokenizer(text)["input_ids"]
    assert min(plain) >= ids.vision_vocab_size
    assert tokenizer.decode(plain) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ('a red sky "red sky" a sky', ["a", " red", " sky", ' "', *"red sky", '"', " a", " sky"]),
        ("a red “a sky” and “red”", ["a", " red", " ", "“", *"a sky", "”", *" and", " ", "“", *"red", "”"]),
        ("red 「red sky」", [*"red", " ", "「", *"red sky", "」"]),
        ("a sky redder", ["a", " sky", *" redder"]),
        ("café 海报", [*"café 海报"]),
        ('"', ['"']),
        ('a "red', ["a", *' "', *"red"]),
    ],
)
def test_quoted_texts_and_unknown_words_are_spelt_out(tmp_path: Path, text: str, pieces: list[str]) -> None:
    corpus = ['a red sky a "x"', "a é 海 报 “ ” 「 」"]
    build_processor(tmp_path, corpus, CODES, 600, MIN_PIXELS, MAX_PIXELS)
    tokenizer = PromptTokenizer(tmp_path).tokenizer
    assert [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]] == pieces
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_thousands_of_quotes_take_no_longer_than_letters(processor: tuple[Path, ProcessorIds]) -> None:
    """Matching looks ahead from every character; it must not look back and start again."""
    tokenizer = PromptTokenizer(processor[0]).tokenizer
    assert len(tokenizer('"' * 2001 + "a" * 2000)["input_ids"]) > 2001


def test_reference_reads_the_image_settings(processor: tuple[Path, ProcessorIds]) -> None:
    image = Image.fromarray(np.full((60, 200, 3), 255, dtype=np.uint8))
    inputs = reference(processor[0]).image_processor(images=[image], return_tensors="pt")
    height, width = halved_size(60, 200, MIN_PIXELS, MAX_PIXELS)
    assert inputs["image_grid_thw"].tolist() == [[1, height // 16, width // 16]]
    assert inputs["pixel_values"].shape == (height * width // 256, 3 * 16 * 16)
    assert inputs["pixel_values"].unique().tolist() == [1.0]


def test_same_corpus_gives_the_same_files(processor: tuple[Path, ProcessorIds], tmp_path: Path) -> None:
    build_processor(tmp_path, [*PROMPTS, "a blue circle"], CODES, 600, MIN_PIXELS, MAX_PIXELS)
    for path in processor[0].iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_vocabulary_too_small_for_codebook_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocabulary of at least 452"):
        build_processor(tmp_path / "new", ["text"], CODES, 451, MIN_PIXELS, MAX_PIXELS)
    assert not (tmp_path / "new").exists()
