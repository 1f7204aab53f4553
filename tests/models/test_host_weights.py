"""Weights that stay in the CPU's memory give what they give on the device."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tiny_language
import torch

from glmkit.generation.denoising import denoise
from glmkit.generation.loading import load_model
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.models.host_weights import HostEmbedding, HostLinear, keep_on_host
from glmkit.models.quantized import PackedLinear
from glmkit.records import Request

CPU = torch.device("cpu")


def test_the_embedding_of_prompts_and_new_tokens() -> None:
    """Rows on the device are those of prior tokens: others are no new token."""
    exact = tiny_language.our_model()
    model = copy.deepcopy(exact)
    keep_on_host(model, model.config.vision_vocab_size, CPU)
    embedding = model.language_model.embed_tokens
    assert isinstance(embedding, HostEmbedding)
    assert len(embedding.weight) == model.config.vision_vocab_size < len(embedding.table)
    prompt, new = torch.tensor([[3, 149, 90]]), torch.tensor([3, 63])
    for ids in (prompt, new, new[:, None]):
        assert torch.equal(embedding(ids), exact.language_model.embed_tokens(ids))
    with pytest.raises(IndexError):
        embedding(torch.tensor([149]))


def test_the_modulation_of_the_decoder(tiny_model: Path) -> None:
    """All blocks' and nothing else; the velocity is the same."""
    one = Request("a", "a 'B'", height=64, width=64, steps=2)
    hybrid = load_model(tiny_model, "cpu", precision="4bit")
    ids = [torch.zeros(2, 2, dtype=torch.int64)]
    expected = denoise(hybrid, [one], ids)
    keep_on_host(hybrid.decoder, 0, CPU)
    held = [name for name, child in hybrid.decoder.named_modules() if isinstance(child, HostLinear)]
    assert held == [f"transformer_blocks.{number}.norm1.linear" for number in range(2)]
    assert torch.equal(denoise(hybrid, [one], ids), expected)


@pytest.mark.gpu
def test_on_a_gpu(tiny_model: Path) -> None:
    """Both are held so in 4 bits, and what is on the GPU is packed, or small."""
    hybrid = load_model(tiny_model, "cuda", precision="4bit")
    one = Request("a", "a 'B'", height=64, width=64, steps=2)
    latents = denoise(hybrid, [one], generate_prior_tokens(hybrid, [one]))
    assert torch.isfinite(latents).all()
    assert isinstance(hybrid.autoregressive.language_model.embed_tokens, HostEmbedding)
    assert isinstance(hybrid.decoder.get_submodule("transformer_blocks.0.norm1.linear"), HostLinear)
    layers = [child for child in hybrid.autoregressive.modules() if isinstance(child, PackedLinear)]
    assert all(layer.matrix.values.is_cuda for layer in layers)
