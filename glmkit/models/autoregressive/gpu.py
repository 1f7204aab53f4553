"""A decoding step of few rows by the kernels of `glmkit.models.autoregressive.kernels`: eight launches per layer, none of
them compiled by torch. The result is that of `AutoregressiveModel.decode_step` but for rounding, and a row's is the same bit for bit
whatever the number of rows: `ORDER` says in which order sums are made, `PLANS` only how the work is shared out.

Both come from measurements on an H200 (`benchmarks/ar_kernels.py`).

Shapes: B rows, K inputs and N outputs of a product, H heads, H' key heads, S parts of a sum, D head size, W width.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from glmkit.models.autoregressive import kernels
from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache, Layer, RmsNorm

NORM_WARPS, ATTENTION_WARPS, MERGE_WARPS = 8, 4, 1
FETCH_BYTES: int = kernels.FETCH_BYTES.value
LEAST = 16  # rows or heads that the matrix units take at once
MOST_ROWS = 64


@dataclass(frozen=True)
class Order:
    """What the order of sums depends on, and so their rounding: common to all plans.

    Each product is summed in so many parts of its inputs, which whoever needs the result adds up. Attention cuts the
    slots that a row has filled into `parts` and reads `slots` at a time.
    """

    qkv: int = 2
    o: int = 2
    gate_up: int = 1
    down: int = 2
    head: int = 1
    parts: int = 16
    slots: int = 128


ORDER = Order()
PART_UNIT = 128  # inputs: parts of a product's sum begin at multiples of these, however many a tile reads at a time


@dataclass(frozen=True)
class Tile:
    """How a product is shared out: a program makes `outputs` of them and has `stages` loads of `inputs` under way.

    From 64 outputs on, Hopper multiplies every tile by the same instruction (`wgmma`), 16 inputs after another, so that
    the sums of all tiles are equal bit for bit. Smaller tiles would take another one.
    """

    outputs: int
    inputs: int
    warps: int = 4
    stages: int = 4


@dataclass(frozen=True)
class Plan:
    """How a step of up to `rows` rows is shared out; nothing here changes the order of a sum.

    `early` lets a kernel start while the one before it runs; with `fetch_weights` a product then asks for the first of
    its weights. Attention reads its part of the cache with `attention_stages` loads under way.
    """

    rows: int
    qkv: Tile
    o: Tile
    gate_up: Tile
    down: Tile
    head: Tile
    attention_stages: int = 2
    early: bool = False
    fetch_weights: bool = False


PLANS = (
    Plan(
        rows=1,
        qkv=Tile(outputs=64, inputs=128, warps=4, stages=4),
        o=Tile(outputs=64, inputs=128, warps=4, stages=6),
        gate_up=Tile(outputs=128, inputs=128, warps=4, stages=3),
        down=Tile(outputs=64, inputs=128, warps=4, stages=6),
        head=Tile(outputs=64, inputs=128, warps=4, stages=3),
        attention_stages=3,
        early=True,
    ),
    Plan(
        rows=16,
        qkv=Tile(outputs=64, inputs=128, warps=4, stages=4),
        o=Tile(outputs=64, inputs=128, warps=4, stages=4),
        gate_up=Tile(outputs=128, inputs=128, warps=4, stages=3),
        down=Tile(outputs=64, inputs=128, warps=4, stages=6),
        head=Tile(outputs=64, inputs=128, warps=4, stages=4),
        early=True,
        fetch_weights=True,
    ),
    Plan(
        rows=64,
        qkv=Tile(outputs=64, inputs=64, warps=4, stages=6),
        o=Tile(outputs=64, inputs=128, warps=4, stages=4),
        gate_up=Tile(outputs=64, inputs=64, warps=4, stages=3),
        down=Tile(outputs=64, inputs=128, warps=4, stages=6),
        head=Tile(outputs=128, inputs=128, warps=8, stages=4),
        early=True,
        fetch_weights=True,
    ),
)


def supports(model: AutoregressiveModel) -> bool:
    """Whether the kernels can run this model: plain linear layers, joint projections, sizes that blocks divide."""
    layers, config = layers_of(model), model.config
    plain = (
        [layer.self_attn.o_proj, layer.mlp.gate_up_proj, layer.mlp.down_proj]
        for layer in layers
        if layer.self_attn.fused is not None
    )
    linears = [model.lm_head, *itertools.chain.from_iterable(plain)]
    return (
        len(linears) == 1 + 3 * len(layers)
        and all(type(linear) is nn.Linear and linear.in_features % 32 == 0 for linear in linears)
        and config.head_dim >= LEAST
        and config.head_dim.bit_count() == 1
    )


def layers_of(model: AutoregressiveModel) -> list[Layer]:
    return [cast(Layer, layer) for layer in model.language_model.layers]


def plan_for(rows: int, device: torch.device) -> Plan:
    """The smallest plan for so many rows; off a GPU without what Triton's interpreter does not know."""
    plan = next(plan for plan in PLANS if plan.rows >= rows)
    return plan if device.type == "cuda" else replace(plan, early=False)


@torch.no_grad()
def decode_step(
    model: AutoregressiveModel,
    ids_B: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    input_pos_B: Tensor,
    cache: KVCache,
    kv_length: int | None = None,
    plan: Plan | None = None,
) -> Tensor:
    """Logits B V after one more token a row, as `AutoregressiveModel.decode_step` gives them.

    A row's slots are read up to its newest one, so `kv_length` does not matter. The tables are float32 and contiguous.
    """
    plan = plan or plan_for(len(ids_B), ids_B.device)
    language, layers = model.language_model, layers_of(model)
    x_BW = language.embed_tokens(ids_B)
    h_BW = add_and_norm(x_BW, None, None, layers[0].input_layernorm, plan)
    norms = [*(layer.input_layernorm for layer in layers[1:]), language.norm]
    for layer, pair, norm in zip(layers, cache.kv, norms, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        joint, bias = cast(Any, attention.fused)
        sums = linear(h_BW, joint, plan.qkv, ORDER.qkv, plan)
        attention_output = attend(sums, bias, cos_sin, input_pos_B, pair, plan)
        sums = linear(attention_output, attention.o_proj.weight, plan.o, ORDER.o, plan)
        h_BW = add_and_norm(x_BW, sums, layer.post_self_attn_layernorm, layer.post_attention_layernorm, plan)
        gated = linear(h_BW, mlp.gate_up_proj.weight, plan.gate_up, ORDER.gate_up, plan, gated=True)[0]
        sums = linear(gated, mlp.down_proj.weight, plan.down, ORDER.down, plan)
        h_BW = add_and_norm(x_BW, sums, layer.post_mlp_layernorm, norm, plan)
    return linear(h_BW, model.lm_head.weight, plan.head, ORDER.head, plan, dtype=x_BW.dtype)[0]


def linear(
    x_BK: Tensor,
    weight: Tensor,
    tile: Tile,
    splits: int,
    plan: Plan,
    gated: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """S B N: x Wᵀ in `splits` parts of a float32 sum, in `dtype` where that is given.

    `gated`: `weight` has gates and values, the result is silu(gate) * value in the type of `x_BK`, not in parts.
    """
    rows, inputs = x_BK.shape
    outputs = len(weight) // 2 if gated else len(weight)
    assert rows <= plan.rows <= MOST_ROWS and (splits == 1 or not (gated or dtype))
    part = -(-inputs // (splits * PART_UNIT)) * PART_UNIT
    target = x_BK.dtype if gated else dtype or torch.float32
    out = torch.empty(splits, rows, outputs, device=x_BK.device, dtype=target)
    fetched = max(1, 32 * tile.warps // tile.outputs)  # pieces a row: one a thread
    fetch = plan.early and plan.fetch_weights and fetched * FETCH_BYTES <= inputs * weight.itemsize
    kernels.linear_kernel[(-(-outputs // tile.outputs), splits)](
        x_BK,
        weight,
        out,
        rows,
        outputs,
        inputs,
        PART=part,
        GATED=gated,
        BLOCK_B=max(LEAST, plan.rows),
        BLOCK_N=tile.outputs,
        BLOCK_K=math.gcd(tile.inputs, part, inputs),
        STAGES=tile.stages,
        FETCHED=fetched if fetch else 0,
        **_launch(plan, tile.warps),
    )
    return out


def attend(
    sums_SBN: Tensor,
    bias: Tensor | None,
    cos_sin: tuple[Tensor, Tensor],
    input_pos_B: Tensor,
    pair: Tensor,
    plan: Plan,
    order: Order = ORDER,
) -> Tensor:
    """B H·D: what the heads read of the cache's layer `pair`, 2 B H' S D, with the new tokens, which are written."""
    splits, rows, columns = sums_SBN.shape
    _, _, key_heads, capacity, size = pair.shape
    heads = columns // size - 2 * key_heads
    partial_outputs = torch.empty(rows, heads, order.parts, size, device=pair.device)
    tops, masses = (torch.empty(rows, heads, order.parts, device=pair.device) for _ in range(2))
    out = torch.empty(rows, heads * size, device=pair.device, dtype=pair.dtype)
    kernels.attend_kernel[(rows * key_heads * order.parts,)](
        sums_SBN,
        sums_SBN if bias is None else bias,
        *cos_sin,
        input_pos_B,
        pair,
        partial_outputs,
        tops,
        masses,
        rows,
        capacity,
        HEADS=heads,
        KEY_HEADS=key_heads,
        D=size,
        ROTARY=cos_sin[0].shape[-1],
        SPLITS=splits,
        BIAS=bias is not None,
        PARTS=order.parts,
        BLOCK_H=max(LEAST, _power_of_two(heads // key_heads)),
        BLOCK_S=order.slots,
        STAGES=plan.attention_stages,
        **_launch(plan, ATTENTION_WARPS),
    )
    kernels.merge_kernel[(rows * heads,)](
        partial_outputs,
        tops,
        masses,
        input_pos_B,
        out,
        HEADS=heads,
        PARTS=order.parts,
        BLOCK_S=order.slots,
        D=size,
        **_launch(plan, MERGE_WARPS),
    )
    return out


def add_and_norm(x_BW: Tensor, sums_SBW: Tensor | None, after: RmsNorm | None, before: RmsNorm, plan: Plan) -> Tensor:
    """x += after(sum of `sums_SBW`), in place; returns before(x). Without `sums_SBW` nothing is added."""
    rows, width = x_BW.shape
    out = torch.empty_like(x_BW)
    kernels.norm_kernel[(rows,)](
        x_BW,
        x_BW if sums_SBW is None else sums_SBW,
        before.weight if after is None else after.weight,
        before.weight,
        out,
        rows,
        before.eps,
        WIDTH=width,
        BLOCK=_power_of_two(width),
        SPLITS=0 if sums_SBW is None else len(sums_SBW),
        **_launch(plan, NORM_WARPS),
    )
    return out


def _launch(plan: Plan, warps: int) -> dict[str, Any]:
    return {"num_warps": warps, "EARLY": plan.early} | ({"launch_pdl": True} if plan.early else {})


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
