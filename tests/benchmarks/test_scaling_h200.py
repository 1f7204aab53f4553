"""The script that sets several GPUs beside one, on nano and by processes of a CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scripts import load_script

from glmkit.files import read_json

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
scaling = load_script("scaling_h200")


def test_efficiency_is_the_gain_over_one_gpu_by_all_gpus() -> None:
    """Shards are compared with the one GPU that needs none; what has no row alone, or failed, has no efficiency."""
    alone = {"case": "decoder, replicas", "alone": "decoder, replicas", "gpus": 1, "gain": 4.0}
    rows = [
        alone,
        {**alone, "gpus": 2, "gain": 7.6},
        {**alone, "case": "decoder, shards", "gpus": 4, "gain": 12.0},
        {**alone, "case": "decoder, full, shards", "gpus": 2, "gain": None},
        {"case": "eval, 2 GPUs", "gpus": 2, "error": "no time left"},
    ]
    found = [row.get("efficiency") for row in scaling.with_efficiency(rows)]
    assert found[:3] == pytest.approx([1.0, 0.95, 0.75])
    assert found[3:] == [None, None]


def test_a_part_that_fails_says_why(tmp_path: Path) -> None:
    launch = scaling.Launch(scaling.TOY, "cpu", 60, tmp_path)
    (row,) = launch.run(1, "lora", ["-m", "no_such_module"], {})
    assert row["case"] == "lora, 1 GPU"
    assert "no_such_module" in row["error"]
    (late,) = scaling.Launch(scaling.TOY, "cpu", 0.1, tmp_path).run(1, "lora", ["-m", "no_such_module"], {})
    assert late["error"] == "took longer than 0.1 s"


def test_what_was_measured_before_a_failure_stays(tmp_path: Path) -> None:
    """And so does a setting that failed alone, which has its own error."""
    program = tmp_path / "program.py"
    row = {"stage": "decoder", "error": "out of memory"}
    program.write_text(f"import json, sys\nopen(sys.argv[-1], 'w').write(json.dumps({row}))\nsys.exit(3)\n")
    first, failed = scaling.Launch(scaling.TOY, "cpu", 60, tmp_path).run(1, "lora", [str(program)], {})
    assert first["error"] == "out of memory"
    assert failed["error"].startswith("exit code 1: ")  # torchrun's
    found = scaling.with_efficiency([{**first, "case": "decoder, replicas", "alone": "decoder, replicas"}, failed])
    assert not any("efficiency" in one for one in found)


@pytest.mark.thorough
def test_in_little(tmp_path: Path) -> None:
    """Adapters, all weights, images that are generated and read, and one image, by two processes and by one."""
    out = tmp_path / "scaling.json"
    assert scaling.main([str(out), "--toy", "--device", "cpu"]) == 0
    rows = read_json(out)["rows"]
    cases = [(row["case"], row["gpus"]) for row in rows]
    stages = ("decoder", "autoregressive")
    assert cases == [
        *((f"{stage}, replicas", gpus) for gpus in (1, 2) for stage in stages),
        *((f"{stage}, {mode}", 2) for mode in ("shards", "full, shards") for stage in stages),
        ("eval", 1),
        ("eval", 2),
        ("64x64, images", 1),
        ("64x64, guidance", 2),
        ("64x64, sequence", 2),
    ]
    assert all(row.get("processes", row["gpus"]) == row["gpus"] for row in rows)
    assert [row["sharded"] for row in rows if "sharded" in row] == [False] * 4 + [True] * 4
    assert [row["images"] for row in rows if row["case"] == "eval"] == [2, 4]
    assert all(row["efficiency"] > 0 for row in rows if "full" not in row["case"])
