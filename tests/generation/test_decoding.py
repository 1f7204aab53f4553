"""Recorded steps give the tokens of steps that run one by one, whatever was generated before them."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_language as tiny
import torch
from torch import Tensor

from glmkit.generation import cuda_graphs, decoding
from glmkit.generation.decoding import PriorTokenDecoder
from glmkit.generation.sampling import Sampling, uniforms
from glmkit.generation.sequence import Grid, prompt_positions
from glmkit.models import compiling
from glmkit.models.autoregressive import backends, compiled_layers, cpu, eager
from glmkit.models.autoregressive.model import CausalLayer
from glmkit.models.cpu_threads import threads

ORDER: list[Grid] = [(5, 3), (4, 6)]


def generate(
    decoder: PriorTokenDecoder, lengths: Sequence[int], sampling: Sampling | None = None, order: Sequence[Grid] = ORDER
) -> Tensor:
    prompts = [tiny.text_prompt(length, length) for length in lengths]
    positions = [prompt_positions(prompt, [], tiny.START) for prompt in prompts]
    total = sum(height * width for height, width in order)
    numbers = torch.stack([uniforms(length, total) for length in lengths])
    return decoder.generate(prompts, positions, order, numbers, sampling or Sampling())


class FakeGraph:
    """Replays by calling the step again: what CUDA would do with the same memory."""

    step: Callable[[], None]

    def __init__(self) -> None:
        self.replay = type(self).step


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """CUDA's part of `cuda_graphs.record` played on the CPU; one entry per recording."""
    recorded: list[int] = []
    record = cuda_graphs.record

    def noted(step: Callable[[], None], state: Sequence[Tensor]) -> Callable[[], None]:
        FakeGraph.step = staticmethod(step)
        recorded.append(len(state))
        return record(step, state)

    class Stream:
        def wait_stream(self, other: Any) -> None: ...

    monkeypatch.setattr(cuda_graphs, "record", noted)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    return recorded


def test_a_batch_leaves_no_cache_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector, which may come a hundred images later."""
    decoder, kept = PriorTokenDecoder(tiny.our_model()), []
    make = decoder._new_buffers

    def new_buffers(batch: int, max_length: int, max_tokens: int) -> Any:
        buffers = make(batch, max_length, max_tokens)
        kept.append(weakref.ref(buffers.cache.kv))
        return buffers

    monkeypatch.setattr(decoder, "_new_buffers", new_buffers)
    gc.disable()
    try:
        generate(decoder, (12, 5))
        assert [reference() for reference in kept] == [None]
    finally:
        gc.enable()


def test_recorded_steps_generate_the_same_tokens(recording: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches filled up to a bucket, buffers used again, prompts of other lengths, few recordings."""
    monkeypatch.setattr(decoding, "KV_LENGTH_MULTIPLE", 16)
    plain, recorded = PriorTokenDecoder(tiny.our_model()), PriorTokenDecoder(tiny.our_model(), recorded=True)
    for lengths in ((7, 2, 12), (5,), (12, 3, 4, 9), (7, 2, 12)):
        assert torch.equal(generate(recorded, lengths), generate(plain, lengths))
    before = len(recording)
    assert before > 4  # batch sizes x key-value lengths
    assert torch.equal(generate(recorded, (12, 5, 6)), generate(plain, (12, 5, 6)))
    assert len(recording) == before
    assert torch.equal(
        generate(recorded, (7, 2, 12), Sampling(top_k=1)), generate(plain, (7, 2, 12), Sampling(top_k=1))
    )
    assert len(recording) > before


def test_prompts_are_prefilled_as_if_alone() -> None:
    """Without each other's rows and padding, whose products may round otherwise."""
    model = copy.deepcopy(tiny.our_model())
    read: list[tuple[int, ...]] = []
    layer = model.language_model.layers[1]
    layer.register_forward_pre_hook(lambda _, inputs: read.append(tuple(inputs[0].shape[:2])))
    generate(PriorTokenDecoder(model), (7, 2, 12))
    assert read == [(1, 8), (1, 3), (1, 13)]


def test_steps_of_a_small_model_do_not_share_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waking another one for each product takes longer than the product; the number is as before afterwards."""
    model, seen = tiny.our_model(), set()
    step = model.decode_step

    def noted(*given: Any) -> Tensor:
        seen.add(torch.get_num_threads())
        return step(*given)

    monkeypatch.setattr(model, "decode_step", noted)
    with threads(2):
        alone = generate(PriorTokenDecoder(model), [5])
        assert torch.get_num_threads() == 2
        assert seen == {1}
        monkeypatch.setattr(eager, "SMALL", 0)
        assert torch.equal(generate(PriorTokenDecoder(model), [5]), alone)
    assert seen == {1, 2}


def test_a_prompt_of_several_seeds_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives what it gives alone, token for token."""
    decoder, read, forward = PriorTokenDecoder(tiny.our_model()), [], CausalLayer.forward

    def noted(layer: CausalLayer, *given: Any) -> Tensor:
        read.append(layer)
        return forward(layer, *given)

    monkeypatch.setattr(CausalLayer, "forward", noted)
    prompts = [tiny.text_prompt(length, length) for length in (6, 3, 6, 6, 3, 9)]
    positions = [prompt_positions(prompt, [], tiny.START) for prompt in prompts]
    numbers = torch.stack([uniforms(seed, 39) for seed in range(6)])
    together = decoder.generate(prompts, positions, ORDER, numbers, Sampling())
    assert len(read) == 3 * len(decoder.model.language_model.layers)
    for index in range(6):
        one = slice(index, index + 1)
        alone = decoder.generate(prompts[one], positions[one], ORDER, numbers[one], Sampling())
        assert torch.equal(together[one], alone)
    assert not torch.equal(together[0], together[2])


def test_compiled_steps_generate_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph breaks, and one compilation for all layers."""
    graphs_made: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs_made.append(len(inputs))
        return graph.forward

    compile_function = torch.compile
    compiling.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile_function(function, backend=backend, **how))
    monkeypatch.setattr(decoding, "KV_LENGTH_MULTIPLE", 16)
    try:
        compiled = generate(PriorTokenDecoder(tiny.our_model(), compiled=True), (7, 2, 12))
    finally:
        compiling.compiled.cache_clear()
    assert torch.equal(compiled, generate(PriorTokenDecoder(tiny.our_model()), (7, 2, 12)))
    assert 3 <= len(graphs_made) <= 5  # before, after, and attention for any key-value length


def test_kernels_generate_the_same_tokens(recording: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """By one recording, since they read no more than is in use; batches beyond what they take are decoded by torch."""
    gpu = pytest.importorskip("glmkit.models.autoregressive.gpu")
    monkeypatch.setattr(decoding, "KV_LENGTH_MULTIPLE", 4)
    monkeypatch.setattr(decoding, "BATCH_SIZES", (1, 2))
    tile = gpu.ProductTile(16, 32)
    monkeypatch.setattr(gpu, "PLANS", (gpu.StepPlan(2, tile, tile, tile, tile, tile),))
    monkeypatch.setattr(gpu, "MAX_BATCH", 2)
    monkeypatch.setattr(backends, "suits_kernels", lambda *_, **__: True)
    monkeypatch.setattr(cpu, "supports", lambda _: False)
    monkeypatch.setattr(compiled_layers, "compiled", lambda function, **_: function)
    model = copy.deepcopy(tiny.our_model())
    model.fuse()
    decoder = PriorTokenDecoder(model, compiled=True, recorded=True)
    few: dict[str, Any] = {"sampling": Sampling(top_k=4), "order": [(1, 2)]}
    assert torch.equal(generate(decoder, (3, 2), **few), generate(PriorTokenDecoder(model), (3, 2), **few))
    assert len(recording) == 1
    monkeypatch.setattr(gpu, "decode_step", None)
    assert torch.equal(generate(decoder, (3, 2, 5), **few), generate(PriorTokenDecoder(model), (3, 2, 5), **few))


@pytest.mark.parametrize(
    ("kind", "dtype", "capability", "runs", "suits"),
    [
        ("cuda", torch.bfloat16, (9, 0), True, True),
        ("cuda", torch.bfloat16, (9, 0), False, False),
        ("cuda", torch.float32, (9, 0), True, False),
        ("cuda", torch.bfloat16, (8, 9), True, False),
        ("cpu", torch.bfloat16, (9, 0), True, False),
    ],
)
def test_kernels_are_for_hopper(
    kind: str, dtype: torch.dtype, capability: tuple[int, int], runs: bool, suits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(backends, "triton_runs", lambda _: runs)
    weight: Any = SimpleNamespace(is_cuda=kind == "cuda", dtype=dtype, device=torch.device(kind))
    assert backends.suits_kernels(weight) is suits
