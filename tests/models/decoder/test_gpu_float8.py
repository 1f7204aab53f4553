"""The decoder's blocks with products in 8-bit floating point; without a GPU their kernels are interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scripts import FOLDER
from torch import Tensor

pytest.importorskip("triton")  # no build of it for macOS and Windows

from glmkit.models import float8
from glmkit.models.decoder import eager, gpu, gpu_float8
from glmkit.models.decoder.config import DecoderConfig
from glmkit.models.decoder.model import DiffusionDecoder, rotary_cos_sin
from glmkit.models.quantized import LowRank, PackedMatrix, quantize

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
GLYPHS, ROWS, COLUMNS, WIDTH = 3, 2, 3, 48
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


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.fixture(autouse=True)
def rounds_to_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter round to e4m3 as a GPU does: its own loses the carry of 15.9 to 16, and gives 8."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    import triton.language as tl

    interpreter: Any = pytest.importorskip("triton.runtime.interpreter")
    convert: Callable[..., Any] = interpreter._convert_float

    def rounded(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if target != tl.float8e4nv:
            return convert(values, source, target, mode)
        return torch.from_numpy(values.copy()).to(float8.FLOAT8).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", rounded)


def assert_same(ours: gpu_float8.Tokens, expected: gpu_float8.Tokens) -> None:
    """The same scales, and bits."""
    assert torch.equal(ours[1], expected[1])
    assert torch.equal(ours[0].view(torch.uint8), expected[0].view(torch.uint8))


@TYPES
def test_tokens_are_cast_as_torch_casts_them(dtype: torch.dtype) -> None:
    """One of zeros among them."""
    x = random(2, 5, WIDTH, dtype=dtype)
    x[0, 1] = 0
    assert_same(gpu_float8.cast_tokens(x), float8.cast_rows(x))


def test_scales_are_rounded_alike_everywhere() -> None:
    """Products with float32(1 / 448), as a GPU's division by a number; a CPU's own division rounds many otherwise."""
    x = random(500, WIDTH)
    largest = x.abs().amax(dim=-1, keepdim=True)
    expected = largest * torch.tensor(1 / 448, device=DEVICE)
    assert (expected != largest / torch.full_like(largest, 448)).any()
    for _, scale in (gpu_float8.cast_tokens(x), float8.cast_rows(x)):
        assert torch.equal(scale, expected)


def test_gelu_comes_before() -> None:
    x = 3 * random(2, 5, WIDTH)
    values, scale = gpu_float8.cast_tokens(x, gelu=True)
    ours, expected = values.double() * scale, F.gelu(x.double(), approximate="tanh")
    torch.testing.assert_close(ours, expected, rtol=0.07, atol=float(expected.abs().max()) / 448 / 2)


@TYPES
def test_norms_are_cast(dtype: torch.dtype) -> None:
    """What `stream` writes in e4m3 is what it writes without, cast; what it adds stays in the type of the model."""
    x, update = (random(2, 9, WIDTH, seed=seed, dtype=dtype) for seed in range(2))
    modulation = random(12 * WIDTH, seed=2, dtype=dtype)
    scale = torch.empty(*x.shape[:2], 1, device=DEVICE)
    settings = (GLYPHS, (update, modulation, gpu.GATE[0]), (modulation, gpu.SHIFT[1]))
    new, values = gpu.stream(x, *settings, scale)
    expected_new, expected = gpu.stream(x, *settings)
    assert torch.equal(new, expected_new)
    assert_same((values, scale), float8.cast_rows(expected))


def random_decoder(dtype: torch.dtype, config: DecoderConfig = CONFIG, change: bool = False) -> DiffusionDecoder:
    torch.manual_seed(0)
    decoder = DiffusionDecoder(config).to(DEVICE, dtype).requires_grad_(False)
    name, width = "transformer_blocks.1.ff.net.2", config.width
    low_rank = LowRank(random(2, 4 * width), random(width, 2)).to(DEVICE, dtype)
    quantize("decoder", decoder, "8bit", DEVICE, {name: low_rank} if change else {})
    decoder.fuse()
    return decoder


def through_blocks(backend: Any, decoder: DiffusionDecoder, dtype: torch.dtype) -> Tensor:
    """Image tokens behind all blocks of two samples."""
    width, config = decoder.config.width, decoder.config
    text, image = random(2, GLYPHS, width, dtype=dtype), random(2, ROWS * COLUMNS, width, seed=1, dtype=dtype)
    modulation = [random(12 * width, seed=2 + number, dtype=dtype) for number in range(config.num_layers)]
    rope = rotary_cos_sin(GLYPHS, ROWS, COLUMNS, config.attention_head_dim, DEVICE)

    def attend(_: int, query: Tensor, key_value: tuple[Tensor, Tensor]) -> Tensor:
        return F.scaled_dot_product_attention(query, *key_value)

    with torch.no_grad():
        result: Tensor = backend.run_blocks(decoder.transformer_blocks, modulation, text, image, rope, attend)
    return result


def in_float64(x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """The formula of `float8.product`."""
    return ((x.double() * x_scale) @ (w.double() * w_scale).T + bias.double()).to(dtype)


def test_blocks_equal_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain blocks with inputs and weights of every product rounded, but for values that round the other way."""
    monkeypatch.setattr(float8, "product", in_float64)
    decoder = random_decoder(torch.float32)
    weights_only = through_blocks(eager, decoder, torch.float32)
    monkeypatch.setattr(float8, "multiplies", lambda _: True)
    expected = through_blocks(eager, decoder, torch.float32)
    ours = through_blocks(gpu_float8, decoder, torch.float32)
    error, rounding = ((one - expected).norm() / expected.norm() for one in (ours, weights_only))
    assert error < 2e-3
    assert rounding > 10 * error


def test_which_decoders_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "has_products", lambda _: True)
    assert gpu_float8.supports(random_decoder(torch.float32))
    assert not gpu_float8.supports(random_decoder(torch.float32, change=True)), "an adapter reads inputs as they are"
    exact = DiffusionDecoder(CONFIG)
    exact.fuse()
    assert not gpu_float8.supports(exact)
    monkeypatch.setattr(float8, "has_products", lambda _: False)
    assert not gpu_float8.supports(random_decoder(torch.float32))


@pytest.fixture
def has_products() -> None:
    if not float8.has_products(DEVICE):
        pytest.skip("a GPU without 8-bit products")


@pytest.mark.gpu
@pytest.mark.usefixtures("has_products")
@pytest.mark.parametrize(("tokens", "outputs", "inputs"), [(1, 48, 64), (77, 320, 1280), (300, 4096, 4096)])
def test_product_on_a_gpu(tokens: int, outputs: int, inputs: int) -> None:
    """By the matrix units, from what the kernel cast: against float64, but for the rounding of the result."""
    x = random(tokens, inputs, dtype=torch.bfloat16)
    matrix = PackedMatrix.pack(random(outputs, inputs, seed=1), "e4m3", random(outputs, seed=2, dtype=torch.bfloat16))
    values, scale = gpu_float8.cast_tokens(x)
    assert_same((values, scale), float8.cast_rows(x))
    assert matrix.bias is not None
    expected = in_float64(values, scale, matrix.values, matrix.scale, matrix.bias, torch.float64)
    ours = gpu_float8.product((values, scale), matrix, torch.bfloat16).double()
    torch.testing.assert_close(ours, expected, rtol=2**-7, atol=float(expected.std()) / 100)
    torch.testing.assert_close(matrix.product(x).double(), ours, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.usefixtures("has_products")
def test_blocks_on_a_gpu() -> None:
    """In bfloat16 by the products of the GPU: nearly the plain blocks whose products it makes, too."""
    decoder = random_decoder(torch.bfloat16)
    expected = through_blocks(eager, decoder, torch.bfloat16).double()
    ours = through_blocks(gpu_float8, decoder, torch.bfloat16).double()
    assert (ours - expected).norm() / expected.norm() < 0.02


ASSEMBLE = """
import sys
sys.path.insert(0, FOLDER)
from triton_compile import compile_only, empty
import torch
from glmkit.models.decoder import gpu, gpu_float8, kernels

compile_only((9, 0))
x, vectors, scale = empty(1, 4128, 4096), empty(12 * 4096), empty(1, 4128, 1, dtype=torch.float32)
gpu.stream(x, 32, (x, vectors, 2), (vectors, 3), scale)
gpu_float8.cast_tokens(x)
gpu_float8.cast_tokens(empty(1, 4128, 16384), gelu=True)
for kernel, count in ((kernels.stream_kernel, 1), (kernels.cast_kernel, 2)):
    compiled = list(kernel.device_caches[0][0].values())
    assert len(compiled) == count, len(compiled)
    assert all("cvt.rn.satfinite.e4m3x2.f32" in one.asm["ptx"] for one in compiled)
"""


@pytest.mark.thorough
def test_kernels_assemble_for_hopper() -> None:
    """In a process where Triton compiles; no GPU is needed for that."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    code = ASSEMBLE.replace("FOLDER", repr(str(FOLDER)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
