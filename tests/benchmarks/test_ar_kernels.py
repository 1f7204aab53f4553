"""The script that looks for plans runs whole at toy size, and what it compiles ahead assembles for Hopper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripts import FOLDER, load_script

from glmkit.files import read_jsonl
from glmkit.generation import sampler

gpu_decode = pytest.importorskip("glmkit.models.gpu_decode")


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("ar_kernels")


def test_sections(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "pick_device", lambda name: script.torch.device("cpu"))
    monkeypatch.setattr(sampler, "CHUNK", 32)  # Triton's interpreter is slow
    monkeypatch.setattr(gpu_decode, "PLANS", (script.replace(gpu_decode.PLANS[0], parts=2),))
    small = script.replace(script.toy(), rows=(1,))
    monkeypatch.setattr(script, "toy", lambda: small)
    assert script.main([str(tmp_path), "--toy"]) == 0
    rows = list(read_jsonl(tmp_path / "ar_kernels.jsonl"))
    assert {row["section"] for row in rows} == {*script.SECTIONS, "trace"}
    assert not any("problem" in row for row in rows)
    assert {row["case"] for row in rows if row["section"] == "products"} == set(script.PRODUCTS)
    assert max(row.get("error", 0) for row in rows) < 1e-4
    assert all(row.get("same", True) for row in rows if row.get("by") != "the code's")  # other cuts, other rounding
    values = {"Plan": script.Plan, "Tile": script.Tile}
    exec((tmp_path / "plans.txt").read_text(), values)
    assert values["PLANS"][0].qkv.inputs == 32, "what was found, not what the code had"


def test_nothing_begins_too_late(script: Any, tmp_path: Path) -> None:
    assert script.main([str(tmp_path), "--toy", "--seconds", "0"]) == 0
    assert not (tmp_path / "ar_kernels.jsonl").exists()


def test_tiles_can_be_launched(script: Any) -> None:
    config = script.full().config
    for name, (_, inputs) in script.shapes(config).items():
        for rows in script.full().rows:
            for tile in script.tiles(name, rows, inputs):
                assert inputs % tile.inputs == 0 and (tile.matrix or rows == 1)
                assert tile.splits == 1 or name in script.CUT


ASSEMBLE = """
import sys
sys.path.insert(0, FOLDER)
import ar_kernels as script

config, tile = script.full().config, script.Tile(8, 512, matrix=False)
script.compile_only((9, 0))
for plan in (script.gpu_decode.PLANS[0], script.gpu_decode.PLANS[-1]):
    script.compile_step(config, script.replace(plan, early=True, own=True, ahead_mib=16))
script.compile_attention(config, script.gpu_decode.PLANS[0])
assert script.tried_to(script.partial(script.compile_product, config, "o", 1, tile)) is None
wrong = script.replace(tile, outputs=3)
assert "power of 2" in script.tried_to(script.partial(script.compile_product, config, "o", 1, wrong))
"""


def test_kernels_assemble_for_hopper() -> None:
    """All kernels of a step at full size, in a process where Triton compiles; no GPU is needed for that."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    code = ASSEMBLE.replace("FOLDER", repr(str(FOLDER)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
