"""The kernels of the experiment give what the decoder's blocks give; without a GPU in Triton's interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scripts import load_script

from glmkit.files import read_jsonl

pytest.importorskip("triton")  # no build of it for macOS and Windows
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "auto"


@pytest.mark.thorough
def test_kernels_and_blocks_agree(tmp_path: Path) -> None:
    """Widths that are no power of two, glyph and image tokens with their own modulation, and a last block."""
    out, script = tmp_path / "rows.jsonl", load_script("block_kernels")
    given = [str(out), "--toy", "--size", "64x96", "32x32", "--layers", "2", "--repeats", "1", "--device", DEVICE]
    assert script.main(given) == 0
    rows = read_jsonl(out)
    assert [row["size"] for row in rows] == ["64x96", "32x32"]
    for row in rows:
        assert 0 < row["difference"] < (1e-6 if DEVICE == "cpu" else 0.02)
        assert row["compiled"] > 0
        assert row["kernels"] > 0
        assert row["copy"] > 0
