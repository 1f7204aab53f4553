"""The decoder against diffusers' GlmImageTransformer2DModel, float32, tiny random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import GlmImageTransformer2DModel
from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from glmkit.errors import UserError
from glmkit.models.decoder.condition_cache import ConditionCache
from glmkit.models.decoder.config import DecoderConfig
from glmkit.models.decoder.model import DiffusionDecoder

TOLERANCE = 1e-4
Source = tuple[Tensor, Tensor, tuple[int, int]]  # latents, prior tokens, size
TINY = {
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "text_embed_dim": 24,
    "time_embed_dim": 32,
    "condition_dim": 8,
    "prior_vq_quantizer_codebook_size": 32,
}
PUBLISHED = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 30,
    "attention_head_dim": 128,
    "num_attention_heads": 32,
    "text_embed_dim": 1472,
    "time_embed_dim": 512,
    "condition_dim": 256,
    "prior_vq_quantizer_codebook_size": 16384,
}
LORA_NAMES = [
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear"),
    *("prior_projector.net.0.proj", "prior_projector.net.2", "glyph_projector.net.2", "image_projector.proj"),
]


@pytest.fixture(scope="module")
def reference() -> GlmImageTransformer2DModel:
    torch.manual_seed(0)
    return GlmImageTransformer2DModel(**TINY).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def ours(reference: GlmImageTransformer2DModel) -> DiffusionDecoder:
    decoder = DiffusionDecoder(DecoderConfig.from_dict(dict(reference.config))).eval().requires_grad_(False)
    decoder.load_state_dict(reference.state_dict(), strict=True)
    return decoder


def draw_inputs(batch: int, rows: int, columns: int, glyphs: int = 5) -> dict[str, Tensor]:
    """Inputs of our forward for `rows` x `columns` latents; every row has its own time, size and crop."""
    generator = torch.Generator().manual_seed(batch * 1000 + rows * 100 + columns)
    return {
        "latents": torch.randn(batch, 4, rows, columns, generator=generator),
        "glyph_embeds": torch.randn(batch, glyphs, 24, generator=generator),
        "prior_token_ids": torch.randint(32, (batch, rows * columns // 4), generator=generator),
        "prior_token_drop": torch.arange(batch) % 2 == 1,
        "timestep": torch.tensor([999.0, 0.0, 432.1, 17.0])[:batch],
        "target_size": torch.tensor([[rows * 8, columns * 8], [1024, 512], [32, 64], [2048, 2048]])[:batch].float(),
        "crop_coords": torch.tensor([[0.0, 0.0], [3.0, 7.0], [0.0, 1.0], [9.0, 0.0]])[:batch],
    }


def draw_source(rows: int, columns: int, seed: int) -> Source:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 4, rows, columns, generator=generator)
    return latents, torch.randint(32, (1, rows * columns // 4), generator=generator), (rows * 8, columns * 8)


def only(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in inputs.items()}


def run_reference(reference: GlmImageTransformer2DModel, cache: GlmImageKVCache | None = None, **inputs: Any) -> Tensor:
    output = reference(
        hidden_states=inputs["latents"],
        encoder_hidden_states=inputs["glyph_embeds"],
        prior_token_id=inputs["prior_token_ids"],
        prior_token_drop=inputs["prior_token_drop"][:, None].expand_as(inputs["prior_token_ids"]),
        timestep=inputs["timestep"],
        target_size=inputs["target_size"],
        crop_coords=inputs["crop_coords"],
        kv_caches=cache,
    )
    velocity: Tensor = output.sample
    return velocity


def write_reference(reference: GlmImageTransformer2DModel, rows: list[list[Source]]) -> GlmImageKVCache:
    """The sources of each row of a batch, written as GlmImagePipeline writes them."""
    cache = GlmImageKVCache(TINY["num_layers"])
    cache.set_mode("write")
    for sources in rows:
        for latents, prior, size in sources:
            reference(
                hidden_states=latents,
                encoder_hidden_states=torch.zeros(1, 0, 24),
                prior_token_id=prior,
                prior_token_drop=torch.zeros_like(prior, dtype=torch.bool),
                timestep=torch.zeros(1),
                target_size=torch.tensor([size]),
                crop_coords=torch.zeros(1, 2),
                kv_caches=cache,
            )
        cache.next_sample()
    return cache


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def test_weights_go_both_ways(reference: GlmImageTransformer2DModel, ours: DiffusionDecoder) -> None:
    other = GlmImageTransformer2DModel(**TINY)
    other.load_state_dict(ours.state_dict(), strict=True)
    assert all(torch.equal(tensor, reference.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_published_size() -> None:
    with torch.device("meta"):
        decoder = DiffusionDecoder(DecoderConfig(**PUBLISHED))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 6_926_882_880


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 12), (16, 4)])
@pytest.mark.parametrize("glyphs", [1, 7])
def test_forward_without_sources(reference: Any, ours: DiffusionDecoder, rows: int, columns: int, glyphs: int) -> None:
    inputs = draw_inputs(4, rows, columns, glyphs)
    expected = run_reference(reference, **inputs)
    assert difference(ours(glyph_mask=None, **inputs), expected) <= TOLERANCE
    assert expected.std() > 0.1  # the comparison is of numbers that matter


@pytest.mark.parametrize("shapes", [[(4, 4)], [(8, 4), (4, 12)], [(4, 4), (12, 8), (6, 2)]])
def test_source_cache_write_read_and_skip(
    reference: Any, ours: DiffusionDecoder, shapes: list[tuple[int, int]]
) -> None:
    sources = [draw_source(rows, columns, seed) for seed, (rows, columns) in enumerate(shapes)]
    inputs = draw_inputs(2, 8, 8)
    cache = write_reference(reference, [sources])
    written = ours.cache_condition_images(sources)
    for layer, expected in zip(written.layers, cache.caches, strict=True):
        assert difference(layer.key.transpose(1, 2), expected.k_caches[0]) <= TOLERANCE
        assert difference(layer.value.transpose(1, 2), expected.v_caches[0]) <= TOLERANCE

    cache.set_mode("read")
    both_rows = ConditionCache.batch([written, written])  # the reference shares one sample's images among the batch
    read = run_reference(reference, cache, **inputs)
    assert difference(ours(glyph_mask=None, condition_cache=both_rows, **inputs), read) <= TOLERANCE

    cache.set_mode("skip")
    skipped = run_reference(reference, cache, **inputs)
    assert difference(ours(glyph_mask=None, **inputs), skipped) <= TOLERANCE
    assert difference(read, skipped) > 100 * TOLERANCE


def test_each_row_reads_its_own_sources(reference: Any, ours: DiffusionDecoder) -> None:
    inputs = draw_inputs(2, 8, 8)
    rows = [[draw_source(4, 8, 1), draw_source(8, 8, 2)], [draw_source(4, 8, 3), draw_source(8, 8, 4)]]
    cache = write_reference(reference, rows)
    cache.set_mode("read")
    sources = ConditionCache.batch([ours.cache_condition_images(row) for row in rows])
    assert sources is not None
    assert sources.mask is None
    assert (
        difference(ours(glyph_mask=None, condition_cache=sources, **inputs), run_reference(reference, cache, **inputs))
        <= TOLERANCE
    )


def test_rows_with_different_numbers_of_sources(reference: Any, ours: DiffusionDecoder) -> None:
    """The reference cannot batch these; ours equals the reference row by row, the row without sources included."""
    inputs = draw_inputs(3, 8, 4)
    rows = [[draw_source(4, 8, 1)], [], [draw_source(8, 8, 2), draw_source(2, 4, 3), draw_source(4, 4, 4)]]
    sources = ConditionCache.batch([ours.cache_condition_images(row) if row else None for row in rows])
    velocity = ours(glyph_mask=None, condition_cache=sources, **inputs)
    for index, row in enumerate(rows):
        cache = write_reference(reference, [row])
        cache.set_mode("read")
        expected = run_reference(reference, cache if row else None, **only(inputs, index))
        assert difference(velocity[index : index + 1], expected) <= TOLERANCE


def stacked(rows: list[list[Source]]) -> list[Source]:
    """Sources of several rows, k-th with k-th, as one batch."""
    return [
        (torch.cat([latents for latents, _, _ in kth]), torch.cat([prior for _, prior, _ in kth]), kth[0][2])
        for kth in zip(*rows, strict=True)
    ]


@pytest.mark.parametrize("shapes", [[(8, 8)], [(4, 8), (8, 6)]])
def test_sources_of_a_batch_are_written_together(
    reference: Any, ours: DiffusionDecoder, shapes: list[tuple[int, int]]
) -> None:
    """One pass for a batch gives what the reference gives one by one; a sample without images equals its "skip"."""
    inputs = draw_inputs(3, 8, 8)
    rows = [[draw_source(*shape, 10 * row + n) for n, shape in enumerate(shapes)] for row in range(3)]
    written = ours.cache_condition_images(stacked(rows))
    cache = write_reference(reference, rows)
    for layer, expected in zip(written.layers, cache.caches, strict=True):
        assert difference(layer.key.transpose(1, 2), torch.cat(list(expected.k_caches))) <= TOLERANCE
        assert difference(layer.value.transpose(1, 2), torch.cat(list(expected.v_caches))) <= TOLERANCE

    cache.set_mode("read")
    read = run_reference(reference, cache, **inputs)
    assert difference(ours(glyph_mask=None, condition_cache=written, **inputs), read) <= TOLERANCE
    cache.set_mode("skip")
    skipped = run_reference(reference, cache, **inputs)
    some = ours(glyph_mask=None, condition_cache=written.visible_where(torch.tensor([True, False, True])), **inputs)
    assert difference(some[[0, 2]], read[[0, 2]]) <= TOLERANCE
    assert difference(some[1], skipped[1]) <= TOLERANCE
    assert difference(read[1], skipped[1]) > 100 * TOLERANCE


def test_only_keeps_what_was_masked_before(ours: DiffusionDecoder) -> None:
    """Rows with different numbers of sources, one of them dropped."""
    inputs = draw_inputs(3, 8, 8)
    rows = [[draw_source(4, 4, 1)], [draw_source(4, 4, 2), draw_source(6, 4, 3)], []]
    sources = ConditionCache.batch([ours.cache_condition_images(row) if row else None for row in rows])
    assert sources is not None
    velocity = ours(glyph_mask=None, condition_cache=sources.visible_where(torch.tensor([True, False, True])), **inputs)
    kept = ours(glyph_mask=None, condition_cache=sources, **inputs)
    assert difference(velocity[[0, 2]], kept[[0, 2]]) <= 1e-6
    assert difference(velocity[1], ours(glyph_mask=None, **inputs)[1]) <= TOLERANCE


def test_gradients_of_sources_are_those_of_rows_alone(ours: DiffusionDecoder) -> None:
    """The loss of a batch reaches every weight through the sources as the losses of its rows do; checkpointed, too."""
    decoder = DiffusionDecoder(ours.config)
    decoder.load_state_dict(ours.state_dict())
    inputs = draw_inputs(2, 4, 4)
    rows = [[draw_source(4, 4, row)] for row in range(2)]
    alone = sum(
        decoder(glyph_mask=None, condition_cache=decoder.cache_condition_images(rows[row]), **only(inputs, row))
        .square()
        .sum()
        for row in range(2)
    )
    expected = torch.autograd.grad(alone, list(decoder.parameters()))
    with torch.no_grad():
        constant = decoder.cache_condition_images(stacked(rows))
    for every in (0, 1):
        decoder.gradient_checkpointing = every
        together = (
            decoder(glyph_mask=None, condition_cache=decoder.cache_condition_images(stacked(rows)), **inputs)
            .square()
            .sum()
        )
        gradients = torch.autograd.grad(together, list(decoder.parameters()))
        for (name, _), ours_, theirs in zip(decoder.named_parameters(), gradients, expected, strict=True):
            assert torch.allclose(ours_, theirs, rtol=1e-3, atol=1e-3), name
    partial = decoder(glyph_mask=None, condition_cache=constant, **inputs).square().sum()
    keys = decoder.get_parameter("transformer_blocks.0.attn1.to_k.weight")
    position = [id(parameter) for parameter in decoder.parameters()].index(id(keys))
    assert not torch.allclose(torch.autograd.grad(partial, keys)[0], expected[position], rtol=1e-2)


def test_a_batch_of_nothing_but_sourceless_rows_needs_no_cache() -> None:
    assert ConditionCache.batch([None, None]) is None


def test_padded_glyphs_are_not_seen(reference: Any, ours: DiffusionDecoder) -> None:
    """A sample alone equals the one left-padded in a batch; the reference attends to its padding (its defect)."""
    inputs = draw_inputs(2, 8, 4, glyphs=6)
    inputs["glyph_embeds"][1, :4] = 0
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :4] = False
    short = only(inputs, 1) | {"glyph_embeds": inputs["glyph_embeds"][1:, 4:]}
    alone = run_reference(reference, **short)

    assert difference(ours(glyph_mask=mask, **inputs)[1:], alone) <= TOLERANCE
    assert difference(run_reference(reference, **inputs)[1:], alone) > 10 * TOLERANCE

    masked_cache = ConditionCache.batch([ours.cache_condition_images([draw_source(4, 4, 1)]), None])
    assert difference(ours(glyph_mask=mask, condition_cache=masked_cache, **inputs)[1:], alone) <= TOLERANCE


def test_gradient_checkpointing_changes_nothing(ours: DiffusionDecoder) -> None:
    decoder = DiffusionDecoder(ours.config)
    decoder.load_state_dict(ours.state_dict())
    inputs = draw_inputs(2, 4, 4)
    gradients = []
    for every in (0, 1):
        decoder.gradient_checkpointing = every
        loss = decoder(glyph_mask=None, **inputs).square().mean()
        gradients.append(torch.autograd.grad(loss, list(decoder.parameters())))
    for (name, _), plain, checkpointed in zip(decoder.named_parameters(), *gradients, strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-6), name
        assert plain.abs().max() > 0, f"{name} has no gradient"


def test_one_graph_without_reading_tensors_back(ours: DiffusionDecoder) -> None:
    """No graph break under torch.compile, thus no wait for the GPU inside a step."""
    inputs = draw_inputs(2, 8, 4)
    mask = torch.tensor([[True] * 5, [False, True, True, True, True]])
    sources = ConditionCache.batch([ours.cache_condition_images([draw_source(4, 4, 1)]), None])
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    expected = ours(glyph_mask=mask, condition_cache=sources, **inputs)
    assert difference(compiled(glyph_mask=mask, condition_cache=sources, **inputs), expected) <= 1e-6


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_follows_float32(ours: DiffusionDecoder, autocast: bool) -> None:
    inputs = draw_inputs(2, 8, 4)
    expected = ours(glyph_mask=None, **inputs)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            velocity = ours(glyph_mask=None, **inputs)
    else:
        decoder = DiffusionDecoder(ours.config).bfloat16()
        decoder.load_state_dict(ours.state_dict())
        half = {name: inputs[name].bfloat16() for name in ("latents", "glyph_embeds")}
        velocity = decoder(glyph_mask=None, **(inputs | half))
    assert velocity.dtype is torch.bfloat16
    assert difference(velocity.float(), expected) < 0.1


def test_lora_sits_under_the_published_names(ours: DiffusionDecoder) -> None:
    config = LoraConfig(r=2, target_modules=LORA_NAMES)
    named = []
    for model in (GlmImageTransformer2DModel(**TINY), DiffusionDecoder(ours.config)):
        inject_adapter_in_model(config, model)
        named.append({name: tensor.shape for name, tensor in model.state_dict().items() if "lora_" in name})
    assert named[0] == named[1]
    assert len(named[0]) == 2 * (7 * TINY["num_layers"] + 4)


def test_config_is_read_from_the_published_file(reference: Any, tmp_path: Path) -> None:
    reference.save_config(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert DecoderConfig.from_dict(values) == DecoderConfig(**TINY)
    del values["condition_dim"]
    with pytest.raises(UserError, match="condition_dim"):
        DecoderConfig.from_dict(values)
