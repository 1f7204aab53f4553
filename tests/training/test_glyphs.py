"""Glyph embeddings that are computed once: those of the encoder, in as few tokens as a batch can have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from glmkit.config import Lora
from glmkit.files import read_json, write_json
from glmkit.inputs.quotes import quoted_texts
from glmkit.models.hybrid import HybridModel
from glmkit.training import features, lora
from glmkit.training.objectives.glyph_embeddings import NO_TEXT, GlyphEmbeddings, GlyphTokens

CPU = torch.device("cpu")
# An even number of texts (each begins with a padding token), none, a text that spells a special token, one twice
CAPTIONS = ["'ab' and 'cde'", "nothing", "it says '</s>x'", "'ab' and, again, 'cde'", "'fghij' alone"]
TWO, NONE, SPECIAL, AGAIN, ONE = range(5)


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return HybridModel(tiny_model)


@pytest.fixture
def stored(hybrid: HybridModel, tmp_path: Path) -> GlyphEmbeddings:
    return GlyphEmbeddings(hybrid, [*map(quoted_texts, CAPTIONS)], features.FeatureCache(CPU, tmp_path))


@torch.no_grad()
@pytest.mark.parametrize("one_shape", [False, True])
def test_embeddings_are_the_encoders(hybrid: HybridModel, stored: GlyphEmbeddings, one_shape: bool) -> None:
    stored.one_shape = one_shape
    for indices in ([ONE, TWO, NO_TEXT], [SPECIAL], [NONE], [AGAIN, TWO]):
        found, mask = stored.embeddings(indices)
        expected, real = hybrid.glyph([CAPTIONS[index] if index != NO_TEXT else "" for index in indices])
        real_tokens = found[mask] if mask is not None else found.flatten(0, 1)
        torch.testing.assert_close(real_tokens, expected[real], rtol=1e-4, atol=1e-5)
        assert found.shape[1] == (-(-found.shape[1] // 16) * 16 if one_shape else real.shape[1])


@torch.no_grad()
def test_a_mask_only_where_something_is_padded(stored: GlyphEmbeddings) -> None:
    assert stored.embeddings([TWO])[1] is None
    assert stored.embeddings([AGAIN, TWO])[1] is None
    mask = stored.embeddings([ONE, TWO])[1]
    assert mask is not None
    assert mask.sum(dim=1).tolist() == [6, 9]


def test_equal_texts_are_kept_once(stored: GlyphEmbeddings, tmp_path: Path) -> None:
    assert stored._numbers[AGAIN] == stored._numbers[TWO]
    assert stored._numbers[NO_TEXT] == stored._numbers[NONE]
    assert sum(path.is_file() and path.suffix != ".json" for path in tmp_path.rglob("*")) == 4


@torch.no_grad()
def test_a_learning_encoder_gives_the_same(hybrid: HybridModel) -> None:
    """The same embeddings, with padding elsewhere."""
    tokens = GlyphTokens([*map(quoted_texts, CAPTIONS)])
    tokens.attach(hybrid.glyph)
    found, mask = tokens.embeddings([TWO, NO_TEXT])
    expected, real = hybrid.glyph([CAPTIONS[TWO], ""])
    assert mask is not None
    torch.testing.assert_close(found[mask], expected[real], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_of_several_texts_is_left_out(hybrid: HybridModel) -> None:
    """Each caption keeps its tokens in their order, and no caption's padding beyond the longest is left."""
    tokens = GlyphTokens([["a"], ["one", "two", "three", "a text of many words"], []])
    tokens.attach(hybrid.glyph)
    embeddings, mask = tokens.embeddings([0, 1, NO_TEXT])
    packed, packed_mask = tokens.pack([0, 1, NO_TEXT], embeddings, mask)
    assert packed_mask is not None
    assert embeddings.shape[1] == 4 * 32
    assert packed.shape[1] == packed_mask.shape[1] == 48
    for row in range(3):
        torch.testing.assert_close(packed[row][packed_mask[row]], embeddings[row][mask[row]], rtol=0, atol=0)


def test_only_adapters_drop_anything(tiny_model: Path, tmp_path: Path) -> None:
    """The published encoder says dropout_rate 0.1, which would make what preserves it a matter of chance."""
    shutil.copytree(tiny_model, tmp_path / "model")
    settings = tmp_path / "model" / "text_encoder" / "config.json"
    write_json(settings, {**read_json(settings), "dropout_rate": 0.5})
    hybrid = HybridModel(tmp_path / "model")
    lora.inject(hybrid.glyph, Lora(rank=2, targets=("q",), dropout=0.25))
    tokens = GlyphTokens([*map(quoted_texts, CAPTIONS)])
    tokens.attach(hybrid.glyph)
    hybrid.glyph.train()
    with torch.no_grad():  # adapters begin at zero, whatever they drop
        first, second = (tokens.embeddings([TWO, ONE])[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    rates = {module.p for module in hybrid.glyph.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.0, 0.25}
