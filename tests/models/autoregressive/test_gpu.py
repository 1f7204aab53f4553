"""The kernels of a decoding step give what the torch code gives; without a GPU they run in Triton's interpreter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest
import tiny_language as tiny
import torch
from torch import Tensor, nn

pytest.importorskip("triton")  # no build of it for macOS and Windows

from glmkit.models.autoregressive import gpu
from glmkit.models.autoregressive.backends import suits_kernels
from glmkit.models.autoregressive.gpu import ORDER, ProductTile, StepPlan
from glmkit.models.autoregressive.model import (
    AutoregressiveModel,
    CausalLayer,
    KVCache,
    RmsNorm,
    attend_to_cache,
    key_mask,
    rotary_cos_sin,
    rotate,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILE = ProductTile(16, 32)
# As little as the kernels take, since the interpreter is slow.
SMALL = StepPlan(16, TILE, TILE, TILE, TILE, TILE)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=tiny.generator(seed)).to(DEVICE)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("inputs", [32, 128, 256])
def test_product(rows: int, inputs: int) -> None:
    """Outputs that fill no tile; parts of the sum, of unequal length, do not depend on the inputs read at a time."""
    x_BK, weight = random(rows, 384), random(40, 384, seed=1)
    sums = gpu.linear(x_BK, weight, ProductTile(16, inputs), 2, SMALL)  # 256 does not divide 384: blocks of 128
    expected = torch.stack([x_BK[:, part] @ weight[:, part].T for part in (slice(256), slice(256, None))])
    torch.testing.assert_close(sums, expected, atol=1e-4, rtol=1e-5)


def test_gated_product() -> None:
    x_BK, weight = random(1, 64), random(2 * 24, 64, seed=1)
    gate, up = (x_BK @ weight.T).chunk(2, dim=-1)
    ours = gpu.linear(x_BK, weight, TILE, 1, SMALL, gated=True)[0]
    torch.testing.assert_close(ours, nn.functional.silu(gate) * up, atol=1e-4, rtol=1e-5)


@pytest.fixture
def unset_is_nan() -> Iterator[None]:
    """What `torch.empty` gives is no number, so that whoever reads what nobody wrote is found out."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unset_is_nan")
@pytest.mark.parametrize("splits", [1, 4])
def test_attention_over_the_cache(splits: int) -> None:
    """Sequences that have come to different positions; the new tokens are turned, written and read, what lies behind is
    not. Splits without keys are neither written nor read.
    """
    input_pos_B = torch.tensor([0, 1, 16, 33, 70], device=DEVICE)
    rows, heads, key_heads, size, capacity = len(input_pos_B), 6, 2, 32, 80
    columns = (heads + 2 * key_heads) * size
    qkv, bias = random(2, rows, columns), random(columns, seed=1)
    layer_cache = random(2, rows, key_heads, capacity, size)
    layer_cache[:, 1, :, 2:] = 1e4
    angles = random(rows, 1, 1, 8, seed=2).repeat(1, 1, 1, 2)
    cos_sin = angles.cos(), angles.sin()

    summed = (qkv.sum(dim=0) + bias).view(rows, -1, 1, size)
    query, key, value = summed.split((heads, key_heads, key_heads), dim=1)
    query, key = rotate(query, cos_sin), rotate(key, cos_sin)
    expected_cache = layer_cache.clone()
    expected_cache[:, torch.arange(rows), :, input_pos_B] = torch.stack((key, value))[..., 0, :].transpose(0, 1)
    expected = attend_to_cache(query, key_mask(input_pos_B, capacity), *expected_cache).reshape(rows, -1)

    order = replace(ORDER, kv_splits=splits, kv_block=16)
    ours = gpu.attend(qkv, bias, cos_sin, input_pos_B, layer_cache, SMALL, order)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer_cache, expected_cache, atol=1e-5, rtol=1e-5)


def test_residual_sum_and_norms_round_as_torch_does() -> None:
    """float16 stands for bfloat16, with which the interpreter cannot calculate.

    A GPU adds the squares of a norm in an order of its own: one of many values may round the other way, which a sum of
    nearly opposite numbers shows.
    """
    rounding = 0.0 if DEVICE.type == "cpu" else 1e-3
    x_BW, sums = random(3, 48).half(), random(4, 3, 48, seed=1)
    after, before = (RmsNorm(48, 1e-5).half().to(DEVICE) for _ in range(2))
    for seed, norm in enumerate((after, before)):
        norm.weight.data = random(48, seed=seed).half()
    with torch.no_grad():
        expected = x_BW + after(sums.sum(dim=0).half())
        ours = gpu.add_and_norm(x_BW, sums, after, before, SMALL)
        torch.testing.assert_close(x_BW, expected, atol=rounding, rtol=2e-3)
        torch.testing.assert_close(ours, before(expected), atol=2e-3, rtol=4e-3)
        torch.testing.assert_close(
            gpu.add_and_norm(x_BW, None, None, before, SMALL), before(x_BW), atol=rounding, rtol=2e-3
        )


def fused_model(dtype: torch.dtype = torch.float32) -> AutoregressiveModel:
    model = copy.deepcopy(tiny.our_model()).to(DEVICE, dtype)
    model.fuse()
    return model


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of a tiny model are summed in several splits, too."""
    monkeypatch.setattr(gpu, "SPLIT_UNIT", 32)


@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize("input_pos", [(5,), (0, 63, 40)])
def test_step_equals_torch(input_pos: tuple[int, ...]) -> None:
    model, rows = fused_model(), len(input_pos)
    cache = KVCache(random(2, 2, rows, 2, 80, 32))
    other = KVCache(cache.kv.clone())
    ids_B, input_pos_B = tiny.random_codes(1, rows).to(DEVICE), torch.tensor(input_pos, device=DEVICE)
    cos, sin = rotary_cos_sin(torch.randint(0, 50, (3, rows, 1), generator=tiny.generator(3)).to(DEVICE), model.config)
    with torch.no_grad():
        expected = model.decode_step(ids_B, (cos, sin), input_pos_B, cache, 80)
    logits = gpu.decode_step(model, ids_B, (cos, sin), input_pos_B, other, plan=SMALL)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(other.kv, cache.kv, atol=1e-4, rtol=0)


def step_of_rows(model: AutoregressiveModel, rows: int) -> Callable[[slice, StepPlan], Tensor]:
    """`step(rows, plan)`: the logits of some rows, at different positions in several splits of the cache."""
    dtype = model.lm_head.weight.dtype
    kv, input_pos_B = random(2, 2, rows, 2, 300, 32).to(dtype), torch.tensor((290, 140), device=DEVICE).repeat(rows)
    ids_B, input_pos_B = tiny.random_codes(1, rows).to(DEVICE), input_pos_B[:rows]
    positions = torch.randint(0, 50, (3, rows, 1), generator=tiny.generator(3)).to(DEVICE)
    cos_sin = rotary_cos_sin(positions, model.config)

    def step(some: slice, plan: StepPlan) -> Tensor:
        cos, sin = (values[some] for values in cos_sin)
        cache = KVCache(kv[:, :, some].clone())
        return gpu.decode_step(model, ids_B[some], (cos, sin), input_pos_B[some], cache, plan=plan)

    return step


@pytest.mark.usefixtures("small_splits", "sums_in_order")
def test_a_row_alone_equals_the_row_in_a_batch() -> None:
    """Bit for bit, by plans with other tiles, where a product adds up in order as the matrix units of a GPU do."""
    large, small = ProductTile(32, 32), ProductTile(16, 16)
    step = step_of_rows(fused_model(), 2)
    together = step(slice(None), StepPlan(64, large, large, large, large, large))
    for row in range(2):
        alone = step(slice(row, row + 1), StepPlan(1, small, small, small, small, small))
        assert torch.equal(alone[0], together[row])


@pytest.mark.gpu
@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize("rows", [2, 17, 64])
def test_a_row_alone_equals_the_row_in_a_batch_on_a_gpu(rows: int) -> None:
    """Bit for bit, by the plans that generation takes for so many rows and for one."""
    model = fused_model(torch.bfloat16)
    if not suits_kernels(model.lm_head.weight):
        pytest.skip("the plans are for Hopper GPUs")
    step = step_of_rows(model, rows)
    together = step(slice(None), gpu.plan_for(rows, DEVICE))
    for row in (0, 1, rows - 1):
        alone = step(slice(row, row + 1), gpu.plan_for(1, DEVICE))
        assert torch.equal(alone[0], together[row])


def test_which_models_fit() -> None:
    assert gpu.supports(fused_model())
    assert not gpu.supports(copy.deepcopy(tiny.our_model())), "projections are not fused"

    class LoraLinear(nn.Linear): ...

    adapted = fused_model()
    cast(CausalLayer, adapted.language_model.layers[1]).mlp.down_proj = LoraLinear(96, 64)
    assert not gpu.supports(adapted)


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 64])
def test_every_batch_has_a_plan(rows: int) -> None:
    plan = gpu.plan_for(rows, torch.device("cpu"))
    assert plan.batch >= rows
    assert not plan.early, "only GPUs can do that"
    for tile in (plan.qkv, plan.o, plan.gate_up, plan.down, plan.head):
        assert tile.outputs >= 64, "another instruction would multiply, and add up in another order"
    assert ORDER.gate_up == ORDER.head == 1
