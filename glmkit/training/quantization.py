"""The frozen weights under adapters: in which type they are held, and how matrices become 4 or 8 bits.

nf4 and int8 are those of bitsandbytes: nf4 is QLoRA's (arXiv:2305.14314), int8 has one scale per row of a matrix. fp8
is in `float8`, fp8-compute in `float8_compute`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from glmkit.config import Lora
from glmkit.errors import UserError
from glmkit.extras import require
from glmkit.models import float8
from glmkit.models.devices import DTYPES, check_bfloat16, dtype_for
from glmkit.models.hardware import device_name
from glmkit.training.float8 import Float8Linear
from glmkit.training.float8_compute import Float8ComputeLinear, fits

INSIDE_A_LIST = re.compile(r"(^|\.)\d+(\.|$)")  # names inside a list of layers
QUANTIZED = ("nf4", "int8", "fp8", "fp8-compute")
COMPUTED = re.compile(r"(^|\.)(self_attn|mlp|attn1|ff)\.")  # the products that take the time; not the modulation
NF4_BLOCK, NF4_SCALES = 64, 256  # weights that share a scale, scales that share a scale


def check(name: str, lora: Lora, device: torch.device) -> None:
    """Raise UserError when the base that a recipe asks for in stage `name` cannot be had here."""
    key = f"{name}.lora.base"
    if lora.base in ("nf4", "int8"):
        require("bitsandbytes", f"{key}: {lora.base}")
    if lora.base == "fp8-compute" and not float8.multiplies_on(device):
        what, fix = f"{key}: fp8-compute needs a GPU that multiplies 8-bit numbers, from Ada or Hopper on", f"{key}=fp8"
        raise UserError(what, found=device_name(device), fix=f"{fix}, which saves memory on every GPU")
    if lora.base == "bfloat16" and device.type == "cpu":
        raise UserError(f"{key}: bfloat16 is for a GPU; a CPU computes in float32", fix=f"{key}=auto")
    if lora.base == "bfloat16":
        check_bfloat16(f"{key}: bfloat16", device, f"{key}=auto")


def dtype(lora: Lora | None, device: torch.device) -> torch.dtype:
    """Return the type of every frozen weight that is not quantized; of all weights without adapters float32."""
    if lora is None:
        return torch.float32
    return DTYPES.get(lora.base, dtype_for(device))


def layer_matrices(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers of a transformer's numbered layers: those that a base quantizes, and Muon trains."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear) and INSIDE_A_LIST.search(name):
            yield name, child


def quantized_matrices(module: nn.Module, base: str) -> Iterator[tuple[str, nn.Linear]]:
    """Yield those of `layer_matrices` that a base quantizes: without adapters; of fp8-compute what takes the time."""
    for name, linear in layer_matrices(module):
        if ".lora_" not in name and (base != "fp8-compute" or (COMPUTED.search(name) and fits(linear))):
            yield name, linear


def quantize(module: nn.Module, base: str) -> None:
    """Replace the matrices of `module`, one after the other, by 4 or 8 bits on their device."""
    makers = {"nf4": _nf4, "int8": _int8, "fp8": Float8Linear, "fp8-compute": Float8ComputeLinear}
    make: Callable[[nn.Linear], nn.Module] = makers[base]
    names = [name for name, _ in quantized_matrices(module, base)]  # for each matrix to leave before the next
    for name in names:
        linear = cast(nn.Linear, module.get_submodule(name))
        small = make(linear)
        small.bias = linear.bias
        small.to(linear.weight.device).requires_grad_(False)
        small.register_forward_pre_hook(cast_as_autocast)
        module.set_submodule(name, small)
    if base in ("nf4", "int8"):
        # By these, PEFT chooses among its layers.
        setattr(module, "is_loaded_in_4bit" if base == "nf4" else "is_loaded_in_8bit", True)


def _nf4(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    small: nn.Module = Linear4bit(*_shape(linear), compute_dtype=linear.weight.dtype, quant_type="nf4", device="meta")
    small.weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
    # Otherwise the first input decides in which type it computes.
    small.compute_type_is_set = True  # type: ignore[assignment]
    # Some CPUs have a kernel that rounds the scales to bfloat16 when it is first used, and leaves them so.
    small.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return small


def _int8(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    # At every product it would say that it quantizes inputs by way of float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    small: nn.Module = Linear8bitLt(*_shape(linear), has_fp16_weights=False, device="meta")
    small.weight = Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    return small


def _shape(linear: nn.Linear) -> tuple[int, int, bool]:
    return linear.in_features, linear.out_features, linear.bias is not None


def cast_as_autocast(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Cast inputs as autocast does for linear layers, which it does not know these to be."""
    kind = inputs[0].device.type
    return (inputs[0].to(torch.get_autocast_dtype(kind)),) if torch.is_autocast_enabled(kind) else inputs


def keep_int8_inputs(module: nn.Module) -> None:
    """Have each of the matrices hold its latest input, until the module is gone.

    bitsandbytes keeps the inputs of int8 products for the backward pass where gradient checkpointing does not see them.
    """

    def keep(linear: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        kept = inputs[0].to(cast(nn.Linear, linear).weight.dtype)
        linear.int8_input = kept.detach()  # without what its graph keeps
        return (kept,)

    for name, linear in layer_matrices(module):
        if ".lora_" not in name:
            linear.register_forward_pre_hook(keep)


def matrix_bytes(module: nn.Module, base: str, value_bytes: int) -> int:
    """Return the bytes of the frozen matrices of `module` on a base, with their scales.

    `value_bytes` is what a value takes that is not quantized.
    """
    total = 0
    quantized = {name for name, _ in quantized_matrices(module, base)} if base in QUANTIZED else set()
    for name, linear in layer_matrices(module):
        count, scales = linear.weight.numel(), linear.out_features
        if ".lora_" in name:
            continue
        if name not in quantized:
            total += value_bytes * count
        elif base == "nf4":
            total += round(count / 2 + count / NF4_BLOCK * (1 + 4 / NF4_SCALES))
        elif base == "fp8-compute":
            total += 2 * count + 4 * (scales + linear.in_features)
        else:
            total += count + 4 * scales
    return total
