"""The script that looks for plans runs whole at toy size, and what it compiles ahead assembles for Hopper."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripts import FOLDER, load_script

from glmkit.files import read_jsonl
from glmkit.generation import sampling as sampler

pytest.importorskip("glmkit.models.autoregressive.gpu")


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("ar_kernels")


@pytest.mark.thorough
@pytest.mark.usefixtures("sums_in_order")
def test_sections(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "pick_device", lambda _: script.torch.device("cpu"))
    monkeypatch.setattr(sampler, "CHUNK", 32)  # Triton's interpreter is slow
    # The interpreter's times say nothing. By this clock the later is the quicker, so that this run's plans win.
    real, times = script.Bench.milliseconds, itertools.count(1e6, -1)

    def milliseconds(bench: Any, calls: Sequence[Any]) -> float:
        real(bench, calls)
        return next(times)

    monkeypatch.setattr(script.Bench, "milliseconds", milliseconds)
    small = script.replace(script.toy(), batches=(1, 2))
    monkeypatch.setattr(script, "toy", lambda: small)
    assert script.main([str(tmp_path), "--toy", "--seconds", "1000"]) == 0
    rows = list(read_jsonl(tmp_path / "ar_kernels.jsonl"))
    assert {row["section"] for row in rows} == {*script.SECTIONS, "trace"}
    assert not any("problem" in row for row in rows)
    assert {row["case"] for row in rows if row["section"] == "products"} == set(script.PRODUCTS)
    assert max(row.get("error", 0) for row in rows) < 1e-4
    assert all(row.get("same", True) for row in rows)
    assert [row["case"] for row in rows if row.get("by") == "same alone"] == ["batch 2, keys 5"]
    values = {"StepPlan": script.StepPlan, "ProductTile": script.ProductTile}
    exec((tmp_path / "plans.txt").read_text(), values)
    assert values["PLANS"][0].qkv.inputs == 32, "what was found, not what the code had"


def test_nothing_begins_too_late(script: Any, tmp_path: Path) -> None:
    assert script.main([str(tmp_path), "--toy", "--seconds", "0"]) == 0
    assert not (tmp_path / "ar_kernels.jsonl").exists()


def test_tiles_can_be_launched(script: Any) -> None:
    config = script.full().config
    for name, (_, inputs) in script.shapes(config).items():
        for batch in script.full().batches:
            for tile in script.tiles(name, batch, inputs):
                assert inputs % tile.inputs == 0
                assert tile.outputs >= 64


ASSEMBLE = """
import re, sys
sys.path.insert(0, FOLDER)
import ar_kernels as script

config, tile = script.full().config, script.ProductTile(64, 128)
script.compile_only((9, 0))
PLANS = script.gpu.PLANS
plain = script.replace(PLANS[0], early=False)
for plan in (*PLANS, plain):
    script.compile_step(config, plan)
script.compile_attention(config, script.ORDER)
compiled = lambda kernel: kernel.device_caches[0][0].values()
attending, products = map(compiled, (script.gpu.kernels.attend_kernel, script.gpu.kernels.linear_kernel))
ways = {(plan.early, plan.attention_stages) for plan in (*PLANS, plain, script.gpu.without_hopper(plain))}
assert len(attending) == len(ways), "not one for each batch"
for product in products:
    used = set(re.findall(r"wgmma\\.mma_async\\S+|mma\\.sync\\S+", product.asm["ptx"]))
    assert len(used) == 1 and "m64" in used.pop(), used
wrong = script.replace(tile, outputs=3)
assert script.tried_to(script.partial(script.compile_product, config, "o", 1, tile)) is None
assert "power of 2" in script.tried_to(script.partial(script.compile_product, config, "o", 1, wrong))
"""


def test_kernels_assemble_for_hopper() -> None:
    """All kernels of a step at full size, in a process where Triton compiles; no GPU is needed for that."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    code = ASSEMBLE.replace("FOLDER", repr(str(FOLDER)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
