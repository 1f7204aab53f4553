"""A step as one compiled function gives what the layers give one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import tiny_language as tiny
import torch
from torch import Tensor, nn

from glmkit.models import compiling
from glmkit.models.autoregressive import cpu
from glmkit.models.autoregressive.model import AutoregressiveModel, CausalLayer, KVCache, rotary_cos_sin


def fused_model() -> AutoregressiveModel:
    model = copy.deepcopy(tiny.our_model())
    model.fuse()
    return model


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=tiny.generator(seed))


def check_step(input_pos: tuple[int, ...], capacity: int) -> None:
    """Logits, and the cache afterwards; what lies behind a sequence's own position does not matter."""
    model, rows = fused_model(), len(input_pos)
    cache = KVCache(random(2, 2, rows, 2, capacity, 32))
    other = KVCache(cache.kv.clone())
    for row, position in enumerate(input_pos):
        other.kv[:, :, row, :, position:] = 100.0
    ids_B, input_pos_B = tiny.random_codes(1, rows), torch.tensor(input_pos)
    cos, sin = rotary_cos_sin(torch.randint(0, 50, (3, rows, 1), generator=tiny.generator(3)), model.config)
    with torch.inference_mode():
        expected = model.decode_step(ids_B, (cos, sin), input_pos_B, cache, capacity)
        logits = cpu.decode_step(model, ids_B, (cos, sin), input_pos_B, other)
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    for row, position in enumerate(input_pos):
        torch.testing.assert_close(
            other.kv[:, :, row, :, : position + 1], cache.kv[:, :, row, :, : position + 1], atol=1e-4, rtol=0
        )
        assert (other.kv[:, :, row, :, position + 1 :] == 100.0).all()


@pytest.mark.parametrize("input_pos", [(5,), (1, 63, 40)])
def test_step_equals_the_layers(input_pos: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "compiled", lambda function: function)
    check_step(input_pos, 64)
    check_step(input_pos, 80)


def test_one_sequence_compiles_once_for_all_capacities(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real compiler."""
    compile_function, made = torch.compile, []

    def counting(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        def backend(graph: Any, inputs: Any) -> Any:
            made.append(graph)
            return compile_fx(graph, inputs)

        return compile_function(function, backend=backend, **how)

    compiling.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", counting)
    try:
        for capacity in (64, 80, 48):
            check_step((40,), capacity)
    finally:
        compiling.compiled.cache_clear()
    assert len(made) == 1


def test_which_models_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.supports(fused_model())
    assert not cpu.supports(copy.deepcopy(tiny.our_model())), "projections are not fused"

    class LoraLinear(nn.Linear): ...

    adapted = fused_model()
    cast(CausalLayer, adapted.language_model.layers[1]).mlp.down_proj = LoraLinear(96, 64)
    assert not cpu.supports(adapted)
    monkeypatch.setattr(cpu, "MAX_LAYERS", 1)
    assert not cpu.supports(fused_model()), "every layer would be written out"
