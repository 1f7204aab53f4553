"""The kernels of a decoder's blocks: what each computes, and as Hopper would run it. All of them together are tested in
test_denoiser."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from scripts import FOLDER
from torch import Tensor

pytest.importorskip("triton")  # no build of it for macOS and Windows

from glmkit.models.decoder import gpu
from glmkit.models.decoder.layers import NORM_EPS
from glmkit.models.decoder.model import rotary_cos_sin

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROWS, TEXT, WIDTH, HEADS = 2, 3, 48, 3  # neither WIDTH nor HEADS a power of two
LENGTH = TEXT + 6
# The interpreter cuts off where a GPU rounds.
TYPES = pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-6)])


def random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def normed(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x.double(), x.shape[-1:], eps=NORM_EPS)


@TYPES
def test_stream(dtype: torch.dtype, error: float) -> None:
    """Each of the two kinds of tokens by its own modulation, that of one of several steps; what is given stays."""
    steps = random(4, 12 * WIDTH, seed=0, dtype=dtype)
    own, following = steps[2], steps[3]
    x, update = (random(ROWS, LENGTH, WIDTH, seed=seed, dtype=dtype) for seed in (1, 2))
    before = x.clone()
    new, norm = gpu.stream(x, TEXT, (update, own, gpu.GATE[0]), (following, gpu.SHIFT[1]))
    told = (torch.arange(LENGTH, device=DEVICE) < TEXT).long()  # 1 for a glyph

    def vectors(given: Tensor, number: int) -> Tensor:
        return given.double().view(12, WIDTH)[2 * number + told]

    expected = x.double() + vectors(own, gpu.GATE[0]) * update.double()
    torch.testing.assert_close(new.double(), expected, atol=error, rtol=error)
    shift, scale = (vectors(following, gpu.SHIFT[1] + more) for more in (0, 1))
    torch.testing.assert_close(norm.double(), shift + normed(new) * (1 + scale), atol=4 * error, rtol=4 * error)
    assert new.dtype == norm.dtype == dtype
    assert torch.equal(x, before)
    alone, _ = gpu.stream(x, TEXT, (update, own, gpu.GATE[0]), None)
    _, first = gpu.stream(new, TEXT, None, (following, gpu.SHIFT[1]))
    assert torch.equal(alone, new)
    assert torch.equal(first, norm)


@TYPES
def test_heads(dtype: torch.dtype, error: float) -> None:
    """Queries and keys normalised and turned, in float64; values as they are."""
    qkv = random(ROWS, LENGTH, 3 * WIDTH, seed=3, dtype=dtype)
    rope = rotary_cos_sin(TEXT, 2, 3, WIDTH // HEADS, DEVICE)
    query, (key, value) = gpu.heads(qkv, rope, HEADS)
    parts = [part.unflatten(-1, (HEADS, -1)) for part in qkv.chunk(3, dim=-1)]
    cos, sin = (table.double() for table in rope)
    for found, part in ((query, parts[0]), (key, parts[1])):
        first, second = normed(part).chunk(2, dim=-1)
        expected = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        torch.testing.assert_close(found.transpose(1, 2).double(), expected, atol=error, rtol=error)
    assert torch.equal(value.transpose(1, 2), parts[2])


ASSEMBLE = """
import sys
sys.path.insert(0, FOLDER)
from triton_compile import compile_only, empty
from glmkit.models.decoder import gpu, kernels

compile_only((9, 0))
for text, tokens in ((32, 4096), (7, 1020)):
    x, qkv, vectors = empty(1, text + tokens, 4096), empty(1, text + tokens, 3 * 4096), empty(12 * 4096)
    for update, norm in ((None, (vectors, 0)), ((x, vectors, 2), (vectors, 3)), ((x, vectors, 5), None)):
        gpu.stream(x, text, update, norm)
    gpu.heads(qkv, (empty(text + tokens, 1, 64).float(), empty(text + tokens, 1, 64).float()), 32)
for name, count in (("stream", 3), ("heads", 1)):
    compiled = list(getattr(kernels, name + "_kernel").device_caches[0][0].values())
    assert len(compiled) == count, f"{name} is compiled {len(compiled)} times"
    assert all(".v4.b32" in one.asm["ptx"] for one in compiled), f"{name} does not read 16 bytes at a time"
"""


@pytest.mark.thorough
def test_kernels_assemble_for_hopper() -> None:
    """Once for all lengths, in a process where Triton compiles; no GPU is needed for that."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    code = ASSEMBLE.replace("FOLDER", repr(str(FOLDER)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
