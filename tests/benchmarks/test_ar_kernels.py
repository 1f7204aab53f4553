"""The script that looks for plans runs whole at toy size, and what it compiles ahead assembles for Hopper."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glmkit.files import read_jsonl

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ar_kernels.py"
pytest.importorskip("triton")


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("ar_kernels", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_sections(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "pick_device", lambda name: script.torch.device("cpu"))
    small = script.replace(script.toy(), rows=(1,))
    monkeypatch.setattr(script, "toy", lambda: small)
    assert script.main([str(tmp_path), "--toy"]) == 0
    rows = list(read_jsonl(tmp_path / "ar_kernels.jsonl"))
    assert {row["section"] for row in rows} == set(script.SECTIONS)
    assert not any("problem" in row for row in rows)
    assert {row["case"] for row in rows if row["section"] == "products"} == set(script.PRODUCTS)
    assert max(row.get("error", 0) for row in rows) < 1e-4
    assert all(row.get("same", True) for row in rows)
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
from dataclasses import replace
sys.path.insert(0, FOLDER)
import ar_kernels as script
import torch
from glmkit.generation.sampler import Sampling, draw_by_kernels
from glmkit.models.gpu_decode import PLANS, decode

torch.set_default_dtype(torch.bfloat16)
config = replace(script.full().config, num_hidden_layers=1)
with torch.device("meta"):
    model = script.AutoregressiveModel(config)
model = model.to_empty(device="cpu").requires_grad_(False)  # never written to: takes no memory
model.fuse()
script.compile_only((9, 0))
for plan in (PLANS[0], PLANS[-1]):
    rows = plan.rows
    cache = script.KVCache(torch.empty(1, 2, rows, 2, 2560, 128))
    table = torch.zeros(rows, 64, dtype=torch.float32), torch.zeros(rows, 64, dtype=torch.float32)
    zeros = torch.zeros(rows, dtype=torch.int64)
    logits = decode(model, zeros, table, zeros, cache, plan=plan)
    draw_by_kernels(logits, torch.empty(rows, dtype=torch.float32), Sampling())
assert script.assemble((config, (9, 0), [("o", 1, script.Tile(8, 512, matrix=False))])) == []
assert "power of 2" in script.assemble((config, (9, 0), [("o", 1, script.Tile(3, 512))]))[0]
"""


def test_kernels_assemble_for_hopper() -> None:
    """All kernels of a step at full size, in a process where Triton compiles; no GPU is needed for that."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    code = ASSEMBLE.replace("FOLDER", repr(str(SCRIPT.parent)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
