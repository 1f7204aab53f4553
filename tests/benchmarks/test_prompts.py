"""The prompts of our own suite: complete, unique, and read by the glyph encoder exactly as they are scored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from glmkit.config import parse_size
from glmkit.files import read_jsonl
from glmkit.generation.sequence import grids
from glmkit.inputs.quotes import quoted_texts
from glmkit.records import Prompt

FILE = Path(__file__).parents[2] / "benchmarks" / "text_render" / "prompts.jsonl"
PROMPTS = [Prompt.from_dict(row) for row in read_jsonl(FILE)]
MINIMUM = {"simple": 128, "simple-signs": 48, "retro": 32, "layouts": 32, "regions": 60, "long": 30, "zh": 60}
SIZED = {"simple-320x192", "simple-192x320", "simple-512x512"}


def test_glyph_spans_are_the_texts() -> None:
    wrong = {prompt.id: spans for prompt in PROMPTS if (spans := tuple(quoted_texts(prompt.prompt))) != prompt.texts}
    assert not wrong


def test_every_split_is_large_enough() -> None:
    counts = Counter(prompt.split for prompt in PROMPTS)
    assert set(counts) == set(MINIMUM) | SIZED
    assert all(counts[split] >= 32 for split in SIZED)
    assert all(counts[split] >= minimum for split, minimum in MINIMUM.items()), counts


def test_sizes_are_those_that_the_splits_are_named_after() -> None:
    for prompt in PROMPTS:
        assert prompt.size == (prompt.split.removeprefix("simple-") if prompt.split in SIZED else ""), prompt.id
        assert not prompt.size or grids(*parse_size(prompt.size))


def test_ids_and_prompts_are_unique() -> None:
    assert len({prompt.id for prompt in PROMPTS}) == len(PROMPTS)
    assert len({prompt.prompt for prompt in PROMPTS}) == len(PROMPTS)
    assert all(prompt.id.startswith(prompt.split + "-") for prompt in PROMPTS)


def test_texts_have_the_promised_shape() -> None:
    for prompt in PROMPTS:
        words = sum(len(text.split()) for text in prompt.texts)
        assert all(text == text.strip() and text for text in prompt.texts), prompt.id
        assert prompt.language == ("zh" if prompt.split == "zh" else "en"), prompt.id
        if prompt.split == "regions":
            assert 2 <= len(prompt.texts) <= 5, prompt.id
        if prompt.split == "long":
            assert 20 <= words <= 60, (prompt.id, words)


def test_chinese_texts_are_chinese() -> None:
    for prompt in PROMPTS:
        chinese = any("\u4e00" <= character <= "\u9fff" for text in prompt.texts for character in text)
        assert chinese == (prompt.split == "zh"), prompt.id
