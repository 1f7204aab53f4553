"""The fast path of generation through the decoder equals its plain forward, which equals the reference (test_model)."""

from __future__ import annotations

import copy
import importlib
import os
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.models import compiling
from glmkit.models.decoder import backends, compiled_blocks, denoiser, eager
from glmkit.models.decoder.condition_cache import ConditionCache
from glmkit.models.decoder.config import DecoderConfig
from glmkit.models.decoder.denoiser import Denoiser, DenoiserSample, cache_condition_images
from glmkit.models.decoder.layers import ActivatedLinear
from glmkit.models.decoder.model import DiffusionDecoder

CONFIG = DecoderConfig(
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=3,
    text_embed_dim=24,
    time_embed_dim=32,
    condition_dim=8,
    prior_vq_quantizer_codebook_size=32,
)
GRID, SIZE = (4, 6), (64, 96)
# Kernels on the CPU, where this decoder is; test_gpu runs them on a GPU, too.
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="Triton compiles for the GPU here")
KERNELS = "glmkit.models.decoder.gpu"
TIMES = torch.tensor([999.0, 432.0, 17.0])


@pytest.fixture(scope="module")
def decoder() -> DiffusionDecoder:
    torch.manual_seed(0)
    made = DiffusionDecoder(CONFIG).eval().requires_grad_(False)
    for parameter in made.parameters():  # zeros of a fresh model would hide what is missing
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def rows_of(decoder: DiffusionDecoder) -> list[DenoiserSample]:
    """Glyph texts of several lengths, dropped priors, sources of two lengths; neighbours that attend alike."""
    generator = torch.Generator().manual_seed(1)

    def glyph(length: int) -> Tensor:
        return torch.randn(length, 24, generator=generator)

    def codes(count: int = 24) -> Tensor:
        return torch.randint(32, (count,), generator=generator)

    def source(rows: int, columns: int) -> ConditionCache:
        latents = torch.randn(1, 4, 2 * rows, 2 * columns, generator=generator)
        return decoder.cache_condition_images([(latents, codes(rows * columns)[None], (16 * rows, 16 * columns))])

    return [
        DenoiserSample(glyph(5), codes()),
        DenoiserSample(glyph(2), codes()),
        DenoiserSample(glyph(1), None),
        DenoiserSample(glyph(1), None),
        DenoiserSample(glyph(5), codes(), source(4, 4)),
        DenoiserSample(glyph(5), codes(), source(2, 6)),
    ]


def expected(decoder: DiffusionDecoder, row: DenoiserSample, latents: Tensor, step: int) -> Tensor:
    """The row alone through the plain forward."""
    velocity: Tensor = decoder(
        latents,
        row.glyph_embeds[None],
        None,
        torch.zeros(1, 24, dtype=torch.int64) if row.prior_token_ids is None else row.prior_token_ids[None],
        torch.tensor([row.prior_token_ids is None]),
        TIMES[step : step + 1],
        torch.tensor([SIZE]).float(),
        torch.zeros(1, 2),
        row.condition_cache,
    )
    return velocity


@pytest.mark.parametrize("group_size", [None, 1, 2, 4, 6])
@pytest.mark.parametrize("fused", [False, True])
def test_every_row_equals_the_forward_of_it_alone(
    decoder: DiffusionDecoder, group_size: int | None, fused: bool
) -> None:
    rows = rows_of(decoder)
    latents = torch.randn(len(rows), 4, 8, 12, generator=torch.Generator().manual_seed(2))
    fast = copy.deepcopy(decoder)
    if fused:
        fast.fuse()
    made = Denoiser(fast, rows, TIMES, SIZE, GRID, group_size=group_size)
    for step in (0, 2):
        velocities = made(latents, step)
        for number, row in enumerate(rows):
            one = expected(decoder, row, latents[number : number + 1], step)
            torch.testing.assert_close(velocities[number : number + 1], one, atol=2e-5, rtol=0)
            assert one.std() > 0.1


@pytest.mark.parametrize("compile_blocks", [False, pytest.param(True, marks=interpreted)])
def test_condition_images_are_held_once(
    decoder: DiffusionDecoder, compile_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of every block in memory of their own, which the denoiser reads where they are."""
    if compile_blocks:
        monkeypatch.setattr(denoiser, "choose_backend", lambda *_, **__: importlib.import_module(KERNELS))
    fused = copy.deepcopy(decoder)
    fused.fuse()
    image = (torch.randn(1, 4, 8, 12), torch.zeros(1, 24, dtype=torch.int64), SIZE)
    cache = cache_condition_images(fused, [image], compile_blocks)
    held = {one.data_ptr(): one for layer in cache.layers for one in layer}
    assert sum(one.untyped_storage().nbytes() for one in held.values()) == 2 * 2 * 24 * 48 * 4, "2 blocks, float32"
    sample = DenoiserSample(torch.randn(5, 24), torch.zeros(24, dtype=torch.int64), cache)
    made = Denoiser(fused, [sample], TIMES, SIZE, GRID)
    (run,) = made._groups[0].runs
    assert {one.data_ptr() for layer in run.cached for one in layer} == set(held)


def test_rows_side_by_side_are_the_same(decoder: DiffusionDecoder) -> None:
    rows, threads = rows_of(decoder), torch.get_num_threads()
    latents = torch.randn(len(rows), 4, 8, 12, generator=torch.Generator().manual_seed(2))
    made = Denoiser(decoder, rows, TIMES, SIZE, GRID, group_size=1)
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(made(latents, 1))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)


@pytest.mark.parametrize("group_size", [1, 4])
def test_leading_samples_go_alone(decoder: DiffusionDecoder, group_size: int) -> None:
    rows = rows_of(decoder)
    latents = torch.randn(len(rows), 4, 8, 12, generator=torch.Generator().manual_seed(2))
    made = Denoiser(decoder, rows, TIMES, SIZE, GRID, group_size=group_size, leading=2)
    assert made(latents[:2], 1).shape == latents[:2].shape
    torch.testing.assert_close(made(latents[:2], 1), made(latents, 1)[:2], atol=1e-6, rtol=0)
    plain = Denoiser(decoder, rows, TIMES, SIZE, GRID, group_size=group_size)
    torch.testing.assert_close(made(latents, 1), plain(latents, 1), atol=2e-5, rtol=0)


def test_steps_without_blocks_are_the_same_alone_and_in_a_batch(decoder: DiffusionDecoder) -> None:
    """To the bit on a CPU, where every sample is its own group; a full step behind them is as if they were none."""
    rows, full = rows_of(decoder), (True, False, True)
    latents = torch.randn(3, len(rows), 4, 8, 12, generator=torch.Generator().manual_seed(2))
    made = Denoiser(decoder, rows, TIMES, SIZE, GRID, full_steps=full)
    together = [made(latents[step], step) for step in range(3)]
    for number, row in enumerate(rows):
        alone = Denoiser(decoder, [row], TIMES, SIZE, GRID, full_steps=full)
        for step in range(3):
            assert torch.equal(alone(latents[step, number : number + 1], step)[0], together[step][number])
    exact = Denoiser(decoder, rows, TIMES, SIZE, GRID)
    assert [torch.equal(exact(latents[step], step), together[step]) for step in range(3)] == list(full)


def test_products_that_apply_gelu(decoder: DiffusionDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's product played on the CPU, whose own applies the exact GELU and so must never be asked."""

    def product(bias: Tensor, x: Tensor, weight: Tensor, use_gelu: bool) -> Tensor:
        assert x.ndim == 2
        assert use_gelu
        return F.gelu(torch.addmm(bias, x, weight), approximate="tanh")

    rows = rows_of(decoder)
    latents = torch.randn(len(rows), 4, 8, 12, generator=torch.Generator().manual_seed(2))
    fast = copy.deepcopy(decoder)
    fast.fuse()
    inner = [module for module in fast.transformer_blocks.modules() if isinstance(module, ActivatedLinear)]
    assert len(inner) == CONFIG.num_layers
    assert not any(layer.fused for layer in inner)
    monkeypatch.setattr(torch, "_addmm_activation", product)
    for layer in inner:
        layer.fused = True
    plain = Denoiser(decoder, rows, TIMES, SIZE, GRID)(latents, 1)
    torch.testing.assert_close(Denoiser(fast, rows, TIMES, SIZE, GRID)(latents, 1), plain, atol=2e-5, rtol=0)


def test_compiled_blocks_equal_eager_ones(decoder: DiffusionDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding glyph texts to few lengths changes nothing, and nothing breaks the graph."""
    rows = rows_of(decoder)
    latents = torch.randn(len(rows), 4, 8, 12, generator=torch.Generator().manual_seed(2))
    plain = Denoiser(decoder, rows, TIMES, SIZE, GRID, group_size=4)(latents, 1)
    compile_function = torch.compile
    compiling.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile_function(function, backend="eager", **how))
    compiled = Denoiser(decoder, rows, TIMES, SIZE, GRID, compile_blocks=True, group_size=4)(latents, 1)
    compiling.compiled.cache_clear()
    torch.testing.assert_close(compiled, plain, atol=2e-5, rtol=0)


def test_compiled_glyph_texts_have_few_lengths() -> None:
    from glmkit.models.decoder.denoiser import _padded

    assert [_padded(length) for length in (1, 8, 9, 64, 65, 2000)] == [8, 8, 16, 64, 128, 2048]


@interpreted
@pytest.mark.parametrize("group_size", [1, 4, pytest.param(6, marks=pytest.mark.thorough)])
def test_kernels_equal_the_blocks(decoder: DiffusionDecoder, monkeypatch: pytest.MonkeyPatch, group_size: int) -> None:
    """Rows of several texts together, widths that are no power of two; without a GPU in Triton's interpreter, which
    does one thing at a time."""
    monkeypatch.setattr(denoiser, "parallel_map", lambda function, items, _: [function(item) for item in items])
    gpu: Any = pytest.importorskip("glmkit.models.decoder.gpu")
    rows, fast = rows_of(decoder), copy.deepcopy(decoder)
    fast.fuse()
    latents = torch.randn(len(rows), 4, 8, 12, generator=torch.Generator().manual_seed(2))
    plain = Denoiser(decoder, rows, TIMES, SIZE, GRID, group_size=group_size)(latents, 1)
    monkeypatch.setattr(backends, "triton_runs", lambda _: True)
    by_kernels = Denoiser(fast, rows, TIMES, SIZE, GRID, compile_blocks=True, group_size=group_size)
    assert by_kernels.backend == gpu
    torch.testing.assert_close(by_kernels(latents, 1), plain, atol=2e-5, rtol=0)
    assert Denoiser(decoder, rows, TIMES, SIZE, GRID, compile_blocks=True).backend is compiled_blocks
    assert Denoiser(fast, rows, TIMES, SIZE, GRID).backend is eager
    odd = DiffusionDecoder(replace(CONFIG, attention_head_dim=24))
    odd.fuse()
    assert not gpu.supports(odd)


@interpreted
def test_kernels_write_the_same_sources(decoder: DiffusionDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = pytest.importorskip("glmkit.models.decoder.gpu")
    fast, generator = copy.deepcopy(decoder), torch.Generator().manual_seed(3)
    fast.fuse()
    sources = [
        (torch.randn(1, 4, *shape, generator=generator), torch.randint(32, (1, 24), generator=generator), SIZE)
        for shape in ((8, 12), (12, 8))
    ]
    plain = decoder.cache_condition_images(sources)
    monkeypatch.setattr(backends, "triton_runs", lambda _: True)
    run_blocks = Mock(wraps=gpu.run_blocks)
    monkeypatch.setattr(gpu, "run_blocks", run_blocks)
    written = cache_condition_images(fast, sources, compile_blocks=True)
    assert run_blocks.call_count == len(sources)
    for found, expected in zip(written.layers, plain.layers, strict=True):
        for part, own in zip(found, expected, strict=True):
            torch.testing.assert_close(part, own, atol=2e-5, rtol=0)
