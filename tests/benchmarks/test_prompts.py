"""The prompts of our own suite: complete, unique, and read by the glyph encoder exactly as they are scored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from glmkit.files import read_jsonl
from glmkit.generation.sequence import grids
from glmkit.inputs.quotes import quoted_texts, rendered_texts
from glmkit.posters.everyday.check import BELOW, COLUMNS, ROWS, Named, NamedFrame, NamedShape
from glmkit.posters.everyday.colours import COLOURS
from glmkit.posters.everyday.texts import (
    ACCENTED,
    LONGEST_CHINESE,
    LONGEST_TEXT,
    LONGEST_WORD,
    NAMES,
    characters,
    chinese_words,
)
from glmkit.posters.grammar import SHAPES
from glmkit.posters.words import words
from glmkit.records import Prompt
from glmkit.sizes import parse_size

FILE = Path(__file__).parents[2] / "benchmarks" / "text_render" / "prompts.jsonl"
PROMPTS = [Prompt.from_dict(row) for row in read_jsonl(FILE)]
MINIMUM = {"simple": 128, "simple-signs": 48, "retro": 32, "layouts": 32, "regions": 60, "long": 30, "zh": 60}
EVERYDAY = {"everyday-en": 200, "everyday-zh": 150, "long-words": 60, "multi-text": 80}
MINIMUM |= EVERYDAY
CHINESE = {"zh", "everyday-zh"}
EVERYDAY_PROMPTS = [prompt for prompt in PROMPTS if prompt.split in EVERYDAY]
SIZED = {"simple-320x192", "simple-192x320", "simple-512x512"}


def test_glyph_spans_are_the_texts() -> None:
    """What is quoted in another way than the published rule reads is given beside the prompt, as `--text` does."""
    spans = {prompt.id: tuple(rendered_texts(prompt.prompt, prompt.glyph_texts)) for prompt in PROMPTS}
    assert not {prompt.id: spans[prompt.id] for prompt in PROMPTS if spans[prompt.id] != prompt.texts}
    given = [prompt for prompt in PROMPTS if prompt.glyph_texts is not None]
    assert given
    assert all(not quoted_texts(prompt.prompt) for prompt in given)


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
        n_words = sum(len(text.split()) for text in prompt.texts)
        assert all(text == text.strip() and text for text in prompt.texts), prompt.id
        assert prompt.language == ("zh" if prompt.split in CHINESE else "en"), prompt.id
        if prompt.split == "regions":
            assert 2 <= len(prompt.texts) <= 5, prompt.id
        if prompt.split == "long":
            assert 20 <= n_words <= 60, (prompt.id, n_words)


def test_chinese_texts_are_chinese() -> None:
    for prompt in PROMPTS:
        chinese = any("\u4e00" <= character <= "\u9fff" for text in prompt.texts for character in text)
        assert chinese == (prompt.split in CHINESE), prompt.id


def test_everyday_texts_are_as_long_as_the_world_knows() -> None:
    for prompt in EVERYDAY_PROMPTS:
        if prompt.language == "zh":
            assert all(len(text.replace(" ", "")) <= LONGEST_CHINESE for text in prompt.texts), prompt.id
        else:
            assert all(len(text) <= LONGEST_TEXT for text in prompt.texts), prompt.id
            assert all(len(word) <= LONGEST_WORD for text in prompt.texts for word in text.split()), prompt.id
        if prompt.split == "multi-text":
            assert 2 <= len(prompt.texts) <= 4, prompt.id
        if prompt.split == "long-words":
            letters = [sum(map(str.isalpha, word)) for text in prompt.texts for word in text.split()]
            assert 9 <= max(letters) <= LONGEST_WORD, prompt.id


def test_everyday_texts_are_new() -> None:
    """None is twice in the suite, or, being one word, in the lists that training samples from."""
    counts = Counter(text.lower() for prompt in PROMPTS for text in prompt.texts)
    trained = {word.lower() for word in (*words("train"), *NAMES, *ACCENTED, *chinese_words("train"))}
    for prompt in EVERYDAY_PROMPTS:
        for text in prompt.texts:
            assert counts[text.lower()] == 1, (prompt.id, text)
            assert text.strip("!?.,:").lower() not in trained, (prompt.id, text)


def test_most_chinese_texts_need_only_common_characters() -> None:
    texts = [prompt.texts for prompt in EVERYDAY_PROMPTS if prompt.split == "everyday-zh"]
    common = set(characters())
    chinese = [{character for character in "".join(one) if "\u4e00" <= character <= "\u9fff"} for one in texts]
    assert sum(one <= common for one in chinese) >= 0.85 * len(chinese)


def test_what_prompts_name_can_be_checked() -> None:
    places = {"", *ROWS, *COLUMNS, *(f"{row} {column}" for row in ROWS for column in COLUMNS)}
    for prompt in EVERYDAY_PROMPTS:
        named = Named.from_dict(prompt.named, prompt.id)
        shapes = [NamedShape.from_dict(shape, prompt.id) for shape in named.shapes or ()]
        frame = NamedFrame.from_dict(named.frame or {}, prompt.id)
        assert {len(named.text_colours), len(named.places)} <= {0, len(prompt.texts)}, prompt.id
        colours = {named.background, frame.colour, *named.text_colours, *(shape.colour for shape in shapes)}
        assert colours <= {"", *COLOURS}, prompt.id
        assert {*named.places, *(shape.place for shape in shapes)} <= {BELOW, *places}, prompt.id
        assert {shape.kind for shape in shapes} <= set(SHAPES), prompt.id
        assert frame.thickness in ("", "thin", "thick"), prompt.id
    assert not [prompt.id for prompt in PROMPTS if prompt.named and prompt.split not in EVERYDAY]
    assert sum(bool(prompt.named) for prompt in EVERYDAY_PROMPTS) > 0.9 * len(EVERYDAY_PROMPTS)
