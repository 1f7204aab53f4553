"""Products and decoding steps with packed weights give what the unpacked weights give; without a GPU interpreted."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

import pytest
import tiny_language as tiny
import torch
from scripts import FOLDER
from torch import Tensor, nn

pytest.importorskip("triton")  # no build of it for macOS and Windows

from glmkit.models.autoregressive import compiled_layers, gpu
from glmkit.models.autoregressive.backends import choose_backend, suits_kernels
from glmkit.models.autoregressive.gpu import ProductTile, StepPlan
from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache, rotary_cos_sin
from glmkit.models.quantized import LowRank, PackedMatrix, quantize

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Tiles of 64 outputs and 16 inputs are the least that a GPU multiplies; the interpreter is slow with any.
TILE = ProductTile(64, 128)
SMALL = StepPlan(16, TILE, TILE, TILE, TILE, TILE)
ROUNDED: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-2}  # inputs become float16


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=tiny.generator(seed)).to(DEVICE)


def low_rank(outputs: int, inputs: int) -> LowRank:
    return LowRank(random(3, inputs, seed=8), random(outputs, 3, seed=9)).to(DEVICE, torch.float32)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize(("format", "inputs"), [("int8", 384), ("int8", 96), ("int4", 384)])
def test_products(format: str, inputs: int, changed: bool) -> None:
    """In two splits, in one of another type, and gated: outputs that fill no tile, groups of 128 and of 32 inputs."""
    x_BK, outputs = random(3, inputs), 40
    packed = PackedMatrix.pack(random(outputs, inputs, seed=1), format)
    matrix = replace(packed, change=low_rank(outputs, inputs) if changed else None)
    weight = packed.unpack().double()
    if matrix.change is not None:
        weight += matrix.change.b.double() @ matrix.change.a.double()
    expected = x_BK.double() @ weight.T
    sums = gpu.linear(x_BK, matrix, TILE, 2, SMALL)
    torch.testing.assert_close(sums.sum(dim=0).double(), expected, **ROUNDED)
    one = gpu.linear(x_BK, matrix, TILE, 1, SMALL, dtype=torch.float32)
    assert len(one) == 1
    torch.testing.assert_close(one[0].double(), expected, **ROUNDED)
    gate, up = expected.chunk(2, dim=-1)
    gated = gpu.linear(x_BK, matrix, TILE, 1, SMALL, gated=True)[0]
    torch.testing.assert_close(gated.double(), nn.functional.silu(gate) * up, rtol=2e-3, atol=1)


def test_an_outlier_has_its_scale() -> None:
    """A matrix of 8 bits with a scale per group."""
    weight = random(40, 512, seed=1)
    weight[3, 200] = 400
    matrix, x_BK = PackedMatrix.pack(weight, "int8"), random(2, 512)
    assert matrix.scale.shape == (40, 4)
    sums = gpu.linear(x_BK, matrix, TILE, 1, SMALL)[0]
    torch.testing.assert_close(sums.double(), x_BK.double() @ matrix.unpack().double().T, **ROUNDED)


def packed_model(precision: str, dtype: torch.dtype = torch.float32, change: bool = False) -> AutoregressiveModel:
    model = copy.deepcopy(tiny.our_model()).to(DEVICE, dtype)
    name = "language_model.layers.0.self_attn.k_proj"
    outputs, inputs = cast(Tensor, model.get_submodule(name).weight).shape
    changes = {name: low_rank(outputs, inputs).to(DEVICE, dtype)} if change else {}
    quantize("autoregressive", model, precision, DEVICE, changes)
    model.fuse()
    return model


def test_step_equals_torch() -> None:
    """With an adapter of a layer among those that are one product; the step of unpacked weights knows no kernels."""
    model = packed_model("8bit", change=True)
    assert gpu.supports(model)
    input_pos_B = torch.tensor([40], device=DEVICE)
    cache = KVCache(random(2, 2, 1, 2, 80, 32))
    other = KVCache(cache.kv.clone())
    ids_B = tiny.random_codes(1, 1).to(DEVICE)
    cos, sin = rotary_cos_sin(torch.full((3, 1, 1), 7, device=DEVICE), model.config)
    with torch.no_grad():
        expected = model.decode_step(ids_B, (cos, sin), input_pos_B, cache, 80)
    logits = gpu.decode_step(model, ids_B, (cos, sin), input_pos_B, other, plan=SMALL)
    torch.testing.assert_close(logits, expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(other.kv, cache.kv, atol=5e-3, rtol=0)
    if DEVICE.type == "cpu":
        assert choose_backend(model, 1, optimized=True) is cast(Any, compiled_layers)


@pytest.mark.usefixtures("sums_in_order")
@pytest.mark.parametrize("precision", ["8bit", "4bit"])
def test_a_prompt_alone_equals_the_prompt_in_a_batch(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, logits and cache, as the forward of it alone; a batch unpacks every matrix once."""
    model, unpack = packed_model(precision), PackedMatrix.unpack
    unpacked: list[int] = []

    def noted(matrix: PackedMatrix, dtype: torch.dtype) -> Tensor:
        unpacked.append(id(matrix))
        return unpack(matrix, dtype)

    monkeypatch.setattr(PackedMatrix, "unpack", noted)
    lengths = (7, 5, 9)
    prompts = [
        (tiny.random_codes(1, length).to(DEVICE), torch.arange(length, device=DEVICE).expand(3, -1))
        for length in lengths
    ]
    kv = torch.zeros(2, 2, 3, 2, 16, 32, device=DEVICE)
    with torch.no_grad():
        together = model.prefill(prompts, KVCache(kv))
        assert len(unpacked) == len(set(unpacked)) == 2 * 4 + 1, "four products a layer, and the head"
        for index, (ids_P, positions_3P) in enumerate(prompts):
            alone = KVCache(torch.zeros_like(kv[:, :, :1]))
            expected = model(ids_P[None], positions_3P[:, None], slice(-1, None), alone)[0]
            assert torch.equal(together[index : index + 1], expected)
            assert torch.equal(kv[:, :, index : index + 1], alone.kv)


@pytest.mark.usefixtures("sums_in_order")
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_row_alone_equals_the_row_in_a_batch(format: str) -> None:
    """Bit for bit, by plans with other tiles, a change included."""
    large = ProductTile(128, 128)
    matrix = replace(PackedMatrix.pack(random(40, 256, seed=1), format), change=low_rank(40, 256))
    x_BK = random(3, 256)
    together = gpu.linear(x_BK, matrix, large, 2, StepPlan(64, large, large, large, large, large))
    alone = gpu.linear(x_BK[1:2], matrix, TILE, 2, replace(SMALL, batch=1))
    assert torch.equal(alone[:, 0], together[:, 1])


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 16, 64])
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_products_on_a_gpu(format: str, rows: int) -> None:
    """By the plans and the instructions of a GPU, in bfloat16, against float64; a row alone is the row of the batch."""
    if not suits_kernels(torch.empty(1, dtype=torch.bfloat16, device=DEVICE), packed=True):
        pytest.skip("a GPU without Triton")
    x_BK, plan = random(rows, 4096).bfloat16(), gpu.plan_for(rows, DEVICE, packed=True)
    matrix = PackedMatrix.pack(random(2 * 1000, 4096, seed=1), format)
    expected = x_BK.double() @ matrix.unpack().double().T
    sums = gpu.linear(x_BK, matrix, plan.o, 2, plan)
    torch.testing.assert_close(sums.sum(dim=0).double(), expected, rtol=1e-4, atol=0.1)
    gate, up = expected.chunk(2, dim=-1)
    gated = gpu.linear(x_BK, matrix, plan.gate_up, 1, plan, gated=True)[0]
    torch.testing.assert_close(gated.double(), nn.functional.silu(gate) * up, rtol=2**-6, atol=8)
    one = gpu.plan_for(1, DEVICE, packed=True)
    assert torch.equal(gpu.linear(x_BK[-1:], matrix, one.o, 2, one)[:, 0], sums[:, -1])


@pytest.mark.gpu
def test_step_on_a_gpu() -> None:
    """In bfloat16: about the logits of the unpacked weights."""
    model = packed_model("8bit", torch.bfloat16, change=True)
    cache, ids_B = KVCache(random(2, 2, 1, 2, 80, 32).bfloat16()), tiny.random_codes(1, 1).to(DEVICE)
    input_pos_B = torch.tensor([40], device=DEVICE)
    cos, sin = rotary_cos_sin(torch.full((3, 1, 1), 7, device=DEVICE), model.config)
    with torch.no_grad():
        expected = model.decode_step(ids_B, (cos, sin), input_pos_B, KVCache(cache.kv.clone()), 80)
    logits = gpu.decode_step(model, ids_B, (cos, sin), input_pos_B, cache)
    torch.testing.assert_close(logits, expected, atol=0.05, rtol=0.05)


ASSEMBLE = """
import sys
sys.path.insert(0, FOLDER)
from triton_compile import compile_only, empty
import torch
from glmkit.models.autoregressive import gpu, packed_kernels
from glmkit.models.quantized import PackedMatrix

compile_only(CAPABILITY)
hopper, kernel = CAPABILITY == (9, 0), packed_kernels.packed_linear_kernel

class OnGpu:
    def __getitem__(self, grid):
        return lambda *args, **named: kernel[grid](*args, **{**named, "BY_WORDS": True})

packed_kernels.packed_linear_kernel = OnGpu()
for format, bits, groups, dtype in (("int8", 8, 1, torch.float32), ("int4", 4, 32, torch.bfloat16)):
    words, scale = empty(27392, 4096 * bits // 16, dtype=torch.int16), empty(groups, 27392, dtype=dtype).t()
    for plan in (gpu.PACKED_PLANS[0], gpu.PACKED_PLANS[2]):
        plan = plan if hopper else gpu.without_hopper(plan)
        gpu.linear(empty(plan.batch, 4096), PackedMatrix(format, words, scale), plan.gate_up, 1, plan, gated=True)
compiled = list(kernel.device_caches[0][0].values())
assert len(compiled) == 4, len(compiled)
for one in compiled:
    ptx = one.asm["ptx"]
    assert ("wgmma.mma_async" if hopper else "mma.sync") in ptx
    assert "ldmatrix" in ptx, "words do not reach the matrix units at once"
    assert one.metadata.shared < (227 if hopper else 99) * 1024, one.metadata.shared
"""


@pytest.mark.thorough
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0)])
def test_kernels_assemble(capability: tuple[int, int]) -> None:
    """For Ampere, Ada and Hopper, in a process where Triton compiles; no GPU is needed for that."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    code = ASSEMBLE.replace("FOLDER", repr(str(FOLDER))).replace("CAPABILITY", repr(capability))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
