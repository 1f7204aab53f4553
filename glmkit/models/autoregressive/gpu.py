"""A decoding step of a small batch by the kernels of `glmkit.models.autoregressive.kernels`: eight launches per layer,
none of them compiled by torch.

The result is that of `AutoregressiveModel.decode_step` but for rounding, and a sequence's is the same bit for bit
whatever the size of its batch: `ORDER` says in which order sums are made, `PLANS` only how the work is shared out.
Both come from measurements on an H200 (`benchmarks/ar_kernels.py`).

Shapes as in `glmkit.models.autoregressive.kernels`; S addends of a product's sum, W width.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from glmkit.models.autoregressive import kernels, packed_kernels
from glmkit.models.autoregressive.model import AutoregressiveModel, CausalLayer, KVCache, RmsNorm
from glmkit.models.devices import HOPPER
from glmkit.models.quantized import BITS, GROUP, LowRank, PackedLinear, PackedMatrix, group_size

NORM_WARPS, ATTENTION_WARPS, MERGE_WARPS = 8, 4, 1
FETCH_BYTES: int = kernels.FETCH_BYTES.value
MIN_BLOCK = 16  # sequences or heads that the matrix units take at once
MAX_BATCH = 64
READS_KV_LENGTH, USES_TRITON = False, True


@dataclass(frozen=True)
class SumOrder:
    """Hold what the order of sums depends on, and so their rounding: common to all plans.

    Each product is summed in so many splits of its inputs, which the kernel that reads the result adds up. Attention
    cuts the keys that a sequence has cached into `kv_splits` and reads `kv_block` of them at a time.
    """

    qkv: int = 2
    o: int = 2
    gate_up: int = 1
    down: int = 2
    head: int = 1
    kv_splits: int = 16
    kv_block: int = 128


ORDER = SumOrder()
SPLIT_UNIT = 128  # inputs: splits of a product's sum begin at multiples of these, however many a tile reads at a time


@dataclass(frozen=True)
class ProductTile:
    """How a product is shared out: a program makes `outputs` of them and has `stages` loads of `inputs` under way.

    From 64 outputs on, Hopper multiplies every tile by the same instruction (`wgmma`), 16 inputs after another, so that
    the sums of all tiles are equal bit for bit. Smaller tiles would take another one.
    """

    outputs: int
    inputs: int
    warps: int = 4
    stages: int = 4


@dataclass(frozen=True)
class StepPlan:
    """How one step of up to `batch` sequences is shared out; nothing here changes the order of a sum.

    `early` lets a kernel start while the one before it runs; with `fetch_weights` a product then asks for the first of
    its weights. Attention reads its split of the cache with `attention_stages` loads under way.
    """

    batch: int
    qkv: ProductTile
    o: ProductTile
    gate_up: ProductTile
    down: ProductTile
    head: ProductTile
    attention_stages: int = 2
    early: bool = False
    fetch_weights: bool = False


PLANS = (
    StepPlan(
        batch=1,
        qkv=ProductTile(outputs=64, inputs=128, warps=4, stages=4),
        o=ProductTile(outputs=64, inputs=128, warps=4, stages=6),
        gate_up=ProductTile(outputs=128, inputs=128, warps=4, stages=3),
        down=ProductTile(outputs=64, inputs=128, warps=4, stages=6),
        head=ProductTile(outputs=64, inputs=128, warps=4, stages=3),
        attention_stages=3,
        early=True,
    ),
    StepPlan(
        batch=16,
        qkv=ProductTile(outputs=64, inputs=128, warps=4, stages=4),
        o=ProductTile(outputs=64, inputs=128, warps=4, stages=4),
        gate_up=ProductTile(outputs=128, inputs=128, warps=4, stages=3),
        down=ProductTile(outputs=64, inputs=128, warps=4, stages=6),
        head=ProductTile(outputs=64, inputs=128, warps=4, stages=4),
        early=True,
        fetch_weights=True,
    ),
    StepPlan(
        batch=64,
        qkv=ProductTile(outputs=64, inputs=64, warps=4, stages=6),
        o=ProductTile(outputs=64, inputs=128, warps=4, stages=4),
        gate_up=ProductTile(outputs=64, inputs=64, warps=4, stages=3),
        down=ProductTile(outputs=64, inputs=128, warps=4, stages=6),
        head=ProductTile(outputs=128, inputs=128, warps=8, stages=4),
        early=True,
        fetch_weights=True,
    ),
)

PACKED_PLANS = tuple(
    StepPlan(batch, tile, tile, tile, tile, tile, attention_stages, early=True)
    for batch, tile, attention_stages in (
        (1, ProductTile(64, GROUP, warps=4, stages=6), 3),
        (16, ProductTile(64, GROUP, warps=4, stages=6), 2),
        (64, ProductTile(128, GROUP, warps=8, stages=4), 2),
    )
)


def supports(model: AutoregressiveModel) -> bool:
    """Return whether the kernels can run this model: linear layers plain or packed, projections fused, sizes fit."""
    layers, config = layers_of(model), model.config
    plain = (
        [layer.self_attn.o_proj, layer.mlp.gate_up_proj, layer.mlp.down_proj]
        for layer in layers
        if layer.self_attn.fused is not None
    )
    linears = [model.lm_head, *itertools.chain.from_iterable(plain)]
    return (
        len(linears) == 1 + 3 * len(layers)
        and all(map(_suits, linears))
        and config.head_dim >= MIN_BLOCK
        and config.head_dim.bit_count() == 1
    )


def _suits(layer: nn.Module) -> bool:
    if isinstance(layer, PackedLinear):
        bits = BITS.get(layer.matrix.format, 0)
        return group_size(layer.matrix.inputs) * bits >= 16 * MIN_BLOCK
    return type(layer) is nn.Linear and layer.in_features % 32 == 0


def layers_of(model: AutoregressiveModel) -> list[CausalLayer]:
    """Return the layers with their type."""
    return [cast(CausalLayer, layer) for layer in model.language_model.layers]


def plan_for(batch: int, device: torch.device, packed: bool = False) -> StepPlan:
    """Return the smallest plan for so many sequences; off Hopper, as in Triton's interpreter, without what that has."""
    plan = next(plan for plan in (PACKED_PLANS if packed else PLANS) if plan.batch >= batch)
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == HOPPER:
        return plan
    return without_hopper(plan)


def without_hopper(plan: StepPlan) -> StepPlan:
    """Return a plan for a GPU that lets no kernel start early and has 99 KiB of shared memory for a program."""
    tiles = {name: replace(getattr(plan, name), stages=2) for name in ("qkv", "o", "gate_up", "down", "head")}
    return replace(plan, early=False, attention_stages=1, **tiles)


@torch.no_grad()
def decode_step(
    model: AutoregressiveModel,
    ids_B: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    input_pos_B: Tensor,
    cache: KVCache,
    _kv_length: int = 0,
    plan: StepPlan | None = None,
) -> Tensor:
    """Return logits B V; see `AutoregressiveModel.decode_step`.

    A sequence's keys are read up to its current one. `cos_sin` are float32 and contiguous.
    `plan` None: the one for this batch.
    """
    plan = plan or plan_for(len(ids_B), ids_B.device, isinstance(model.lm_head, PackedLinear))
    language, layers = model.language_model, layers_of(model)
    x_BW = language.embed_tokens(ids_B)
    normed_BW = add_and_norm(x_BW, None, None, layers[0].input_layernorm, plan)
    next_norms = [*(layer.input_layernorm for layer in layers[1:]), language.norm]
    for layer, layer_cache, next_norm in zip(layers, cache.kv, next_norms, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        fused = attention.fused
        assert fused is not None
        qkv_weight, qkv_bias = (fused, fused.bias) if isinstance(fused, PackedMatrix) else fused
        qkv = linear(normed_BW, qkv_weight, plan.qkv, ORDER.qkv, plan)
        attention_output = attend(qkv, qkv_bias, cos_sin, input_pos_B, layer_cache, plan)
        update = linear(attention_output, _weight(attention.o_proj), plan.o, ORDER.o, plan)
        normed_BW = add_and_norm(x_BW, update, layer.post_self_attn_layernorm, layer.post_attention_layernorm, plan)
        gated = linear(normed_BW, _weight(mlp.gate_up_proj), plan.gate_up, ORDER.gate_up, plan, gated=True)[0]
        update = linear(gated, _weight(mlp.down_proj), plan.down, ORDER.down, plan)
        normed_BW = add_and_norm(x_BW, update, layer.post_mlp_layernorm, next_norm, plan)
    return linear(normed_BW, _weight(model.lm_head), plan.head, ORDER.head, plan, dtype=x_BW.dtype)[0]


def _weight(layer: nn.Module) -> Tensor | PackedMatrix:
    return layer.matrix if isinstance(layer, PackedLinear) else cast(nn.Linear, layer).weight


def linear(
    x_BK: Tensor,
    weight: Tensor | PackedMatrix,
    tile: ProductTile,
    splits: int,
    plan: StepPlan,
    gated: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return x Wᵀ, S B N, in `splits` addends of a float32 sum, or of `dtype` where that is given.

    `gated`: `weight` has gates and values, the result is silu(gate) * value in the type of `x_BK`, in one piece.
    """
    if isinstance(weight, PackedMatrix):
        return packed_linear(x_BK, weight, tile, splits, plan, gated, dtype)
    batch, inputs = x_BK.shape
    outputs = len(weight) // 2 if gated else len(weight)
    assert batch <= plan.batch <= MAX_BATCH
    assert splits == 1 or not (gated or dtype)
    split_inputs = -(-inputs // (splits * SPLIT_UNIT)) * SPLIT_UNIT
    out = torch.empty(splits, batch, outputs, device=x_BK.device, dtype=x_BK.dtype if gated else dtype or torch.float32)
    fetched = max(1, 32 * tile.warps // tile.outputs)  # pieces of a row of the weight: one per thread
    fetch = plan.early and plan.fetch_weights and fetched * FETCH_BYTES <= inputs * weight.itemsize
    kernels.linear_kernel[(-(-outputs // tile.outputs), splits)](
        x_BK,
        weight,
        out,
        batch,
        outputs,
        inputs,
        SPLIT=split_inputs,
        GATED=gated,
        BLOCK_B=max(MIN_BLOCK, plan.batch),
        BLOCK_N=tile.outputs,
        BLOCK_K=math.gcd(tile.inputs, split_inputs, inputs),
        STAGES=tile.stages,
        FETCHED=fetched if fetch else 0,
        **_launch(plan, tile.warps),
    )
    return out


def packed_linear(
    x_BK: Tensor,
    matrix: PackedMatrix,
    tile: ProductTile,
    splits: int,
    plan: StepPlan,
    gated: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return what `linear` does with the weight that a packed matrix stands for; its change is one addend more."""
    if matrix.change is not None:
        return _changed_linear(x_BK, matrix, tile, splits, plan, gated, dtype)
    batch, inputs = x_BK.shape
    outputs, size = len(matrix.values) // (2 if gated else 1), group_size(inputs)
    assert batch <= plan.batch <= MAX_BATCH
    assert matrix.scale.stride(0) == 1
    split_inputs = -(-inputs // (splits * SPLIT_UNIT)) * SPLIT_UNIT
    assert split_inputs % size == 0
    out = torch.empty(splits, batch, outputs, device=x_BK.device, dtype=x_BK.dtype if gated else dtype or torch.float32)
    packed_kernels.packed_linear_kernel[(-(-outputs // tile.outputs), splits)](
        x_BK,
        matrix.values,
        matrix.scale,
        out,
        batch,
        outputs,
        inputs,
        SPLIT=split_inputs,
        GATED=gated,
        BITS=BITS[matrix.format],
        GROUP=size,
        GROUPED=matrix.scale.shape[1] > 1,
        BY_WORDS=x_BK.is_cuda,
        BLOCK_B=max(MIN_BLOCK, plan.batch),
        BLOCK_N=tile.outputs,
        STAGES=tile.stages,
        **_launch(plan, tile.warps),
    )
    return out


def _changed_linear(
    x_BK: Tensor,
    matrix: PackedMatrix,
    tile: ProductTile,
    splits: int,
    plan: StepPlan,
    gated: bool,
    dtype: torch.dtype | None,
) -> Tensor:
    """Return `packed_linear` of a matrix with a change, whose two products are those of plain weights."""
    change = cast(LowRank, matrix.change)
    inner_BR = linear(x_BK, change.a, tile, 1, plan, dtype=x_BK.dtype)[0]
    unchanged = packed_linear(x_BK, replace(matrix, change=None), tile, splits, plan)
    sums = torch.cat([unchanged, linear(inner_BR, change.b, tile, 1, plan)])
    if gated:
        gate, up = sums.sum(dim=0).to(x_BK.dtype).chunk(2, dim=-1)
        return (nn.functional.silu(gate) * up)[None]
    return sums if dtype is None else sums.sum(dim=0, keepdim=True).to(dtype)


def attend(
    qkv_SBN: Tensor,
    bias: Tensor | None,
    cos_sin: tuple[Tensor, Tensor],
    input_pos_B: Tensor,
    layer_cache: Tensor,
    plan: StepPlan,
    order: SumOrder = ORDER,
) -> Tensor:
    """Return what the heads read of one layer's cache, B (H d), after writing the new tokens to it.

    `qkv_SBN` are the addends of the fused projection, N = (H + 2 G) d; `layer_cache` is 2 B G S d.
    """
    splits, batch, outputs = qkv_SBN.shape
    _, _, key_heads, capacity, head_dim = layer_cache.shape
    heads = outputs // head_dim - 2 * key_heads
    partials = torch.empty(batch, heads, order.kv_splits, head_dim, device=layer_cache.device)
    maxima, masses = (torch.empty(batch, heads, order.kv_splits, device=layer_cache.device) for _ in range(2))
    out = torch.empty(batch, heads * head_dim, device=layer_cache.device, dtype=layer_cache.dtype)
    kernels.attend_kernel[(batch * key_heads * order.kv_splits,)](
        qkv_SBN,
        qkv_SBN if bias is None else bias,
        *cos_sin,
        input_pos_B,
        layer_cache,
        partials,
        maxima,
        masses,
        batch,
        capacity,
        HEADS=heads,
        KEY_HEADS=key_heads,
        D=head_dim,
        ROTARY=cos_sin[0].shape[-1],
        SPLITS=splits,
        BIAS=bias is not None,
        KV_SPLITS=order.kv_splits,
        BLOCK_H=max(MIN_BLOCK, _power_of_two(heads // key_heads)),
        BLOCK_S=order.kv_block,
        STAGES=plan.attention_stages,
        **_launch(plan, ATTENTION_WARPS),
    )
    kernels.merge_kernel[(batch * heads,)](
        partials,
        maxima,
        masses,
        input_pos_B,
        out,
        HEADS=heads,
        KV_SPLITS=order.kv_splits,
        BLOCK_S=order.kv_block,
        D=head_dim,
        **_launch(plan, MERGE_WARPS),
    )
    return out


def add_and_norm(
    x_BW: Tensor, update_SBW: Tensor | None, after: RmsNorm | None, before: RmsNorm, plan: StepPlan
) -> Tensor:
    """Add after(sum of `update_SBW`) to x in place and return before(x); without `update_SBW` nothing is added."""
    batch, width = x_BW.shape
    out = torch.empty_like(x_BW)
    kernels.norm_kernel[(batch,)](
        x_BW,
        x_BW if update_SBW is None else update_SBW,
        before.weight if after is None else after.weight,
        before.weight,
        out,
        batch,
        before.eps,
        WIDTH=width,
        BLOCK=_power_of_two(width),
        SPLITS=0 if update_SBW is None else len(update_SBW),
        **_launch(plan, NORM_WARPS),
    )
    return out


def _launch(plan: StepPlan, warps: int) -> dict[str, Any]:
    return {"num_warps": warps, "EARLY": plan.early} | ({"launch_pdl": True} if plan.early else {})


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
