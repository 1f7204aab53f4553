"""The kernels of a decoder's blocks as Hopper would run them; what they compute is tested in test_denoiser."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from scripts import FOLDER

pytest.importorskip("triton")  # no build of it for macOS and Windows

ASSEMBLE = """
import sys
sys.path.insert(0, FOLDER)
from ar_kernels import compile_only, empty
from glmkit.models import block_kernels, gpu_blocks

compile_only((9, 0))
for text, tokens in ((32, 4096), (7, 1020)):
    x, qkv, vectors = empty(1, text + tokens, 4096), empty(1, text + tokens, 3 * 4096), empty(12 * 4096)
    for update, norm in ((None, (vectors, 0)), ((x, vectors, 2), (vectors, 3)), ((x, vectors, 5), None)):
        gpu_blocks.stream(x, text, update, norm)
    gpu_blocks.heads(qkv, (empty(text + tokens, 1, 64).float(), empty(text + tokens, 1, 64).float()), 32)
for name, count in (("stream", 3), ("heads", 1)):
    compiled = list(getattr(block_kernels, name + "_kernel").device_caches[0][0].values())
    assert len(compiled) == count, f"{name} is compiled {len(compiled)} times"
    assert all(".v4.b32" in one.asm["ptx"] for one in compiled), f"{name} does not read 16 bytes at a time"
"""


def test_kernels_assemble_for_hopper() -> None:
    """Once for all lengths, in a process where Triton compiles; no GPU is needed for that."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    code = ASSEMBLE.replace("FOLDER", repr(str(FOLDER)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
