"""Glyph embeddings against diffusers' GlmImagePipeline, float32, a tiny random T5."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import GlmImagePipeline
from torch import Tensor
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from glmkit.inputs.quotes import quoted_texts
from glmkit.models.glyph.model import GlyphEncoder

TOLERANCE = 1e-4
PROMPTS = [
    "no quotes at all",
    "one 'WORD'",
    "two 'WORDS' and “more”",  # an even number of spans: each gets a padding token in front
    "three: 'a', \"bb\" and 「汉字」",
    "four: 「一」 “二” \"three\" 'four'",
    "spaces count ' a  b ' and an empty one ''",
    "the same 'twin' 'twin'",
    "a special token's name: '<pad>' and “</s> <extra_id_3>”",
    "It's a dog's day",
    "never 'closed",
]
LONG = "more than 2048 tokens: '" + "0123456789" * 210 + "'"


@pytest.fixture(scope="module")
def glyph() -> GlyphEncoder:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=384,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
    )
    return GlyphEncoder(T5EncoderModel(config).eval().requires_grad_(False), ByT5Tokenizer())


def reference_embeddings(glyph: GlyphEncoder, prompts: list[str]) -> Tensor:
    """B T D of the reference code, which needs only these three attributes of a pipeline."""
    pipeline = SimpleNamespace(
        tokenizer=glyph.tokenizer,
        text_encoder=glyph.encoder,
        get_glyph_texts=lambda prompt: GlmImagePipeline.get_glyph_texts(None, prompt),
    )
    embeddings: Tensor = GlmImagePipeline._get_glyph_embeds(pipeline, prompts, device=torch.device("cpu"))
    return embeddings


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_spans_are_those_of_the_published_code(prompt: str) -> None:
    assert [quoted_texts(prompt)] == GlmImagePipeline.get_glyph_texts(None, prompt)


def test_spans_come_quote_kind_by_quote_kind() -> None:
    assert quoted_texts("「d」 \"c\" “b” 'a' 'A'") == ["a", "A", "b", "c", "d"]
    assert quoted_texts("It's a dog's day") == ["s a dog"]


@pytest.mark.parametrize("prompt", [*PROMPTS, LONG], ids=range(len(PROMPTS) + 1))
def test_one_prompt_equals_reference(glyph: GlyphEncoder, prompt: str) -> None:
    embeddings, mask = glyph([prompt])
    expected = reference_embeddings(glyph, [prompt])
    assert embeddings.shape == expected.shape
    assert (embeddings - expected).abs().max() <= TOLERANCE
    assert mask.all()


def test_a_batch_equals_its_prompts_alone(glyph: GlyphEncoder) -> None:
    embeddings, mask = glyph(PROMPTS)
    assert mask.dtype is torch.bool
    for row, real, prompt in zip(embeddings, mask, PROMPTS, strict=True):
        alone = glyph([prompt])[0][0]
        assert real.sum() == len(alone)
        assert (row[-len(alone) :] - alone).abs().max() <= TOLERANCE, "padding belongs on the left"
        assert not row[: -len(alone)].any()


def test_a_batch_has_the_layout_of_reference(glyph: GlyphEncoder) -> None:
    assert (glyph(PROMPTS)[0] - reference_embeddings(glyph, PROMPTS)).abs().max() <= TOLERANCE


def test_token_ids_give_the_same_embeddings(glyph: GlyphEncoder) -> None:
    """Prompt for prompt, in the order of the text; only the padding is elsewhere, and it is zero."""
    prompts = [["HELLO"], ["a", "bc"], [], ["x", "y", "a longer text"], ["<pad>"]]
    ids = torch.from_numpy(glyph.tokenize(prompts))
    embeddings, mask = glyph.encode_token_ids(torch.nn.functional.pad(ids, (0, 3), value=-1))
    expected, real = glyph.encode_texts(prompts)
    for row in range(len(prompts)):
        assert (embeddings[row][mask[row]] - expected[row][real[row]]).abs().max() <= TOLERANCE
    assert embeddings[~mask].abs().max() == 0
    assert mask.shape[1] == 3 * (len("a longer text") + 1 + 3)


def test_no_spans_mean_one_empty_span(glyph: GlyphEncoder) -> None:
    embeddings, mask = glyph.encode_texts([[], [""]])
    assert torch.equal(embeddings[0], embeddings[1])
    assert mask.tolist() == [[True], [True]]  # the end token


def test_the_even_rule_is_per_prompt(glyph: GlyphEncoder) -> None:
    """One span alone and the same span beside another differ: the second sees a padding token in front."""
    lengths = glyph.encode_texts([["ab"], ["ab", "cd"], ["ab", "cd", "ef"]])[1].sum(1)
    assert lengths.tolist() == [3, 2 * 4, 3 * 3]


def test_gradients_reach_the_encoder_from_every_prompt(glyph: GlyphEncoder) -> None:
    encoder = T5EncoderModel(glyph.encoder.config)
    trainable = GlyphEncoder(encoder, glyph.tokenizer)
    embeddings, _ = trainable.encode_texts([["A"], ["B", "C"]])
    embeddings.square().sum().backward()
    touched = encoder.shared.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [0, 1, *(ord(letter) + 3 for letter in "ABC")]
