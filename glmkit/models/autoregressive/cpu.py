"""A decoding step of a small model on a CPU as one function compiled by torch.

A token of nano takes less arithmetic than a hundred operations take to start, and reading the weights bounds the rest.
So all layers become one function, and a single sequence meets the weights in loops of the compiler's own, which read
faster than the products of a library. The result is that of `AutoregressiveModel.decode_step` but for rounding.

Shapes as in `autoregressive.model`; K inputs and N outputs of a product.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models.autoregressive.model import AutoregressiveModel, CausalLayer, KVCache
from glmkit.models.compiling import compiled
from glmkit.models.cpu_threads import threads

MAX_LAYERS = 8  # every layer is written out: compiling takes some 3 s for each
READS_KV_LENGTH, USES_TRITON = False, False


def supports(model: AutoregressiveModel) -> bool:
    """Return whether the step can be compiled: on a CPU, few layers, plain linear ones, fused projections."""
    layers = [cast(CausalLayer, layer) for layer in model.language_model.layers]
    linears = [model.lm_head]
    for layer in layers:
        linears += [layer.self_attn.o_proj, layer.mlp.gate_up_proj, layer.mlp.down_proj]
    return (
        model.language_model.norm.weight.device.type == "cpu"
        and len(layers) <= MAX_LAYERS
        and all(layer.self_attn.fused is not None for layer in layers)
        and all(type(linear) is nn.Linear for linear in linears)
    )


def decode_step(
    model: AutoregressiveModel,
    ids_B: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    input_pos_B: Tensor,
    cache: KVCache,
    _kv_length: int = 0,
) -> Tensor:
    """Return logits B V; see `AutoregressiveModel.decode_step`. All of the cache is read."""
    earlier_B11S = (torch.arange(cache.kv.shape[4]) < input_pos_B[:, None])[:, None, None]
    for tensor, dimension in ((cache.kv, 4), (earlier_B11S, 3)):
        torch._dynamo.maybe_mark_dynamic(tensor, dimension)  # one compiled function for caches of all capacities
    with threads(1):  # which would wait for each other for longer than they compute
        logits_BV, key_value = compiled(_step)(model, ids_B, cos_sin, earlier_B11S, cache.kv)
    # Not inside the compiled function: that would copy the cache to write one position of it.
    cache.kv.scatter_(4, input_pos_B[:, None, None, None].expand_as(key_value), key_value)
    return logits_BV


def _step(
    model: AutoregressiveModel, ids_B: Tensor, cos_sin: tuple[Tensor, Tensor], earlier_B11S: Tensor, kv: Tensor
) -> tuple[Tensor, Tensor]:
    """Return logits B V, and the new tokens' keys and values, L 2 B G 1 d."""
    x_B1D = model.language_model.embed_tokens(ids_B[:, None])
    new_kv = []
    for index, module in enumerate(model.language_model.layers):
        layer = cast(CausalLayer, module)
        attention, mlp = layer.self_attn, layer.mlp
        assert isinstance(attention.fused, tuple)
        qkv = _linear(layer.input_layernorm(x_B1D), *attention.fused)
        query, key, value = attention.split_heads(qkv, cos_sin)
        new_kv.append(torch.stack((key, value)))
        attention_output = _attend(query, key, value, earlier_B11S, *kv[index]).reshape(len(x_B1D), 1, -1)
        x_B1D = x_B1D + layer.post_self_attn_layernorm(_linear(attention_output, attention.o_proj.weight))
        gate, up = _linear(layer.post_attention_layernorm(x_B1D), mlp.gate_up_proj.weight).chunk(2, dim=-1)
        x_B1D = x_B1D + layer.post_mlp_layernorm(_linear(F.silu(gate) * up, mlp.down_proj.weight))
    return _linear(model.language_model.norm(x_B1D), model.lm_head.weight)[:, 0], torch.stack(new_kv)


def _linear(x_B1K: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return B 1 N."""
    if len(x_B1K) > 1:
        return F.linear(x_B1K, weight_NK, bias_N)
    product = (x_B1K[:, :, None] * weight_NK).sum(dim=-1)
    return product if bias_N is None else product + bias_N


def _attend(
    query: Tensor, key: Tensor, value: Tensor, earlier_B11S: Tensor, keys_before: Tensor, values_before: Tensor
) -> Tensor:
    """Return what queries B K 1 d read of the cached keys B G S d before them, and of their own token's B G 1 d."""
    grouped = query.reshape(len(query), key.shape[1], -1, query.shape[-1]) * query.shape[-1] ** -0.5
    scores = (grouped @ keys_before.transpose(-1, -2)).masked_fill(~earlier_B11S, -torch.inf)
    own_score = (grouped * key).sum(dim=-1, keepdim=True)
    top = torch.maximum(scores.amax(dim=-1, keepdim=True), own_score)
    weights, own_weight = (scores - top).exp(), (own_score - top).exp()
    return (weights @ values_before + own_weight * value) / (weights.sum(dim=-1, keepdim=True) + own_weight)
