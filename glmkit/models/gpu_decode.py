"""A decoding step of few rows by the kernels of `glmkit.models.kernels`: eight launches a layer, none of them compiled
by torch. The result is that of `AutoregressiveModel.decode` but for rounding.

How each product is cut, and how much is fetched ahead, stands in `PLANS`: reckoned so far, `benchmarks/ar_kernels.py`
measures better ones.

Shapes: B rows, K inputs and N outputs of a product, H heads, H' key heads, S parts of a sum, D head size, W width.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from glmkit.models import kernels
from glmkit.models.autoregressive import AutoregressiveModel, KVCache, Layer, RmsNorm

SMALL_WARPS = 8  # of the kernels beside the products
THREADS = 32 * SMALL_WARPS
FETCH_BYTES: int = kernels.FETCH_BYTES.value
LEAST = 16  # rows or heads that the matrix units take at once
MOST_ROWS = 64


@dataclass(frozen=True)
class Tile:
    """How a product is cut: a program makes `outputs` of them from `inputs` at a time, of the `splits`-th part.

    `matrix` uses the matrix units; without them only one row is possible.
    """

    outputs: int
    inputs: int
    splits: int = 1
    warps: int = 4
    stages: int = 4
    matrix: bool = True


@dataclass(frozen=True)
class Plan:
    """How a step of up to `rows` rows runs. Attention cuts the slots into `parts` and reads `slots` at a time.

    `ahead_mib` of the next product's weight are fetched by each small kernel; `early` lets a kernel start while the one
    before it runs, and with `own` a product then fetches the first of its weights.
    """

    rows: int
    qkv: Tile
    o: Tile
    gate_up: Tile
    down: Tile
    head: Tile
    parts: int
    slots: int = 64
    ahead_mib: int = 0
    early: bool = False
    own: bool = False


# All programs of a product run at once on 132 processors: a second wave would cost as much as the first.
PLANS = (
    Plan(
        rows=1,
        qkv=Tile(outputs=2, inputs=2048, splits=1, warps=4, stages=1, matrix=False),
        o=Tile(outputs=2, inputs=2048, splits=1, warps=4, stages=1, matrix=False),
        gate_up=Tile(outputs=1, inputs=2048, splits=1, warps=4, stages=1, matrix=False),
        down=Tile(outputs=64, inputs=128, splits=2, warps=4, stages=6, matrix=True),
        head=Tile(outputs=1, inputs=2048, splits=1, warps=4, stages=1, matrix=False),
        parts=32,
        slots=64,
        ahead_mib=0,
        early=False,
        own=False,
    ),
    Plan(
        rows=16,
        qkv=Tile(outputs=64, inputs=128, splits=2, warps=4, stages=4, matrix=True),
        o=Tile(outputs=64, inputs=128, splits=2, warps=4, stages=6, matrix=True),
        gate_up=Tile(outputs=64, inputs=128, splits=1, warps=4, stages=3, matrix=True),
        down=Tile(outputs=64, inputs=128, splits=2, warps=4, stages=6, matrix=True),
        head=Tile(outputs=64, inputs=128, splits=1, warps=4, stages=4, matrix=True),
        parts=8,
        slots=64,
        ahead_mib=0,
        early=True,
        own=True,
    ),
    Plan(
        rows=64,
        qkv=Tile(outputs=64, inputs=128, splits=1, warps=4, stages=6, matrix=True),
        o=Tile(outputs=64, inputs=128, splits=2, warps=4, stages=4, matrix=True),
        gate_up=Tile(outputs=64, inputs=64, splits=1, warps=4, stages=3, matrix=True),
        down=Tile(outputs=64, inputs=128, splits=2, warps=4, stages=6, matrix=True),
        head=Tile(outputs=128, inputs=128, splits=1, warps=8, stages=4, matrix=True),
        parts=2,
        slots=128,
        ahead_mib=0,
        early=False,
        own=False,
    ),
)


def fits(model: AutoregressiveModel) -> bool:
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
    return plan if device.type == "cuda" else replace(plan, ahead_mib=0, early=False, own=False)


@torch.no_grad()
def decode(
    model: AutoregressiveModel,
    ids_B: Tensor,
    table: tuple[Tensor, Tensor],
    slots_B: Tensor,
    cache: KVCache,
    window: int | None = None,
    plan: Plan | None = None,
) -> Tensor:
    """Logits B V after one more token a row, as `AutoregressiveModel.decode` gives them.

    A row's slots are read up to its newest one, so `window` does not matter. The tables are float32 and contiguous.
    """
    plan = plan or plan_for(len(ids_B), ids_B.device)
    language, layers = model.language_model, layers_of(model)
    x_BW = language.embed_tokens(ids_B)
    h_BW = add_and_norm(x_BW, None, None, layers[0].input_layernorm, _qkv(layers[0]), plan)
    own = [(layer.input_layernorm, _qkv(layer)) for layer in layers]
    following = [*own[1:], (language.norm, model.lm_head.weight)]
    for layer, pair, (norm, weight) in zip(layers, cache.pairs, following, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        sums = linear(h_BW, _qkv(layer), plan.qkv, plan)
        mixed = attend(sums, cast(Any, attention.fused)[1], table, slots_B, pair, attention.o_proj.weight, plan)
        sums = linear(mixed, attention.o_proj.weight, plan.o, plan)
        after, before = layer.post_self_attn_layernorm, layer.post_attention_layernorm
        h_BW = add_and_norm(x_BW, sums, after, before, mlp.gate_up_proj.weight, plan)
        gated = linear(h_BW, mlp.gate_up_proj.weight, plan.gate_up, plan, gated=True)[0]
        sums = linear(gated, mlp.down_proj.weight, plan.down, plan)
        h_BW = add_and_norm(x_BW, sums, layer.post_mlp_layernorm, norm, weight, plan)
    return linear(h_BW, model.lm_head.weight, plan.head, plan, dtype=x_BW.dtype)[0]


def _qkv(layer: Layer) -> Tensor:
    return cast(Any, layer.self_attn.fused)[0]


def linear(
    x_BK: Tensor, weight: Tensor, tile: Tile, plan: Plan, gated: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """S B N: x Wᵀ in parts of a float32 sum, in `dtype` where that is given.

    `gated`: `weight` has gates and values, the result is silu(gate) * value in the type of `x_BK`, not in parts.
    """
    rows, inputs = x_BK.shape
    outputs = len(weight) // 2 if gated else len(weight)
    assert rows <= plan.rows <= MOST_ROWS and (tile.splits == 1 or not (gated or dtype))
    target = x_BK.dtype if gated else dtype or torch.float32
    out = torch.empty(tile.splits, rows, outputs, device=x_BK.device, dtype=target)
    fetched = max(1, 32 * tile.warps // tile.outputs)  # pieces a row: one a thread
    kernels.linear_kernel[(-(-outputs // tile.outputs), tile.splits)](
        x_BK,
        weight,
        out,
        rows,
        outputs,
        inputs,
        SPLITS=tile.splits,
        GATED=gated,
        BLOCK_B=max(LEAST, plan.rows) if tile.matrix else 1,
        BLOCK_N=tile.outputs,
        BLOCK_K=math.gcd(tile.inputs, inputs),
        STAGES=tile.stages,
        FETCHED=fetched if plan.early and plan.own and fetched * FETCH_BYTES <= inputs * weight.itemsize else 0,
        **_launch(plan, tile.warps),
    )
    return out


def attend(
    sums_SBN: Tensor,
    bias: Tensor | None,
    table: tuple[Tensor, Tensor],
    slots_B: Tensor,
    pair: Tensor,
    next_weight: Tensor,
    plan: Plan,
) -> Tensor:
    """B H·D: what the heads read of the cache's layer `pair`, 2 B H' S D, with the new tokens, which are written."""
    splits, rows, columns = sums_SBN.shape
    _, _, key_heads, capacity, size = pair.shape
    heads = columns // size - 2 * key_heads
    mixed = torch.empty(rows, heads, plan.parts, size, device=pair.device)
    tops, masses = (torch.empty(rows, heads, plan.parts, device=pair.device) for _ in range(2))
    out = torch.empty(rows, heads * size, device=pair.device, dtype=pair.dtype)
    work, fetched = rows * key_heads * plan.parts, _pieces(next_weight, plan)
    kernels.attend_kernel[(work + fetched,)](
        sums_SBN,
        sums_SBN if bias is None else bias,
        *table,
        slots_B,
        pair,
        mixed,
        tops,
        masses,
        next_weight,
        rows,
        capacity,
        HEADS=heads,
        KEY_HEADS=key_heads,
        D=size,
        ROTARY=table[0].shape[-1],
        SPLITS=splits,
        BIAS=bias is not None,
        PARTS=plan.parts,
        BLOCK_H=max(LEAST, _power_of_two(heads // key_heads)),
        BLOCK_S=plan.slots,
        STAGES=2,
        THREADS=THREADS,
        **_launch(plan, SMALL_WARPS),
    )
    kernels.merge_kernel[(rows * heads,)](mixed, tops, masses, out, PARTS=plan.parts, D=size, **_launch(plan, 4))
    return out


def add_and_norm(
    x_BW: Tensor, sums_SBW: Tensor | None, after: RmsNorm | None, before: RmsNorm, next_weight: Tensor, plan: Plan
) -> Tensor:
    """x += after(sum of `sums_SBW`), in place; returns before(x). Without `sums_SBW` nothing is added."""
    rows, width = x_BW.shape
    out = torch.empty_like(x_BW)
    kernels.norm_kernel[(rows + _pieces(next_weight, plan),)](
        x_BW,
        x_BW if sums_SBW is None else sums_SBW,
        before.weight if after is None else after.weight,
        before.weight,
        out,
        next_weight,
        rows,
        before.eps,
        WIDTH=width,
        BLOCK=_power_of_two(width),
        SPLITS=0 if sums_SBW is None else len(sums_SBW),
        THREADS=THREADS,
        **_launch(plan, SMALL_WARPS),
    )
    return out


def _launch(plan: Plan, warps: int) -> dict[str, Any]:
    return {"num_warps": warps, "EARLY": plan.early} | ({"launch_pdl": True} if plan.early else {})


def _pieces(weight: Tensor, plan: Plan) -> int:
    """How many programs fetch the beginning of `weight` ahead."""
    return min(plan.ahead_mib * 2**20, weight.nbytes) // (THREADS * FETCH_BYTES)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
