"""The script that measures the training of the published sizes runs whole at toy size."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import load_script

from glmkit.files import read_jsonl


@pytest.fixture(autouse=True)
def quick_collections() -> Iterator[None]:
    """Each row looks for garbage, and need not look among all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_toy(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage, base, batch and way of holding the base is a row, told as soon as it is there."""
    out, script = tmp_path / "rows.jsonl", load_script("train_h200")
    assert script.main([str(out), "--toy", "--model", str(tiny_model), "--device", "cpu"]) == 0
    rows = read_jsonl(out)
    assert len(rows) == len(capsys.readouterr().out.splitlines()) == len(list(script.jobs(script.TOY)))
    missing = importlib.util.find_spec("bitsandbytes") is None
    failed = {row["base"] for row in rows if "error" in row}
    assert failed == ({"nf4", "int8"} if missing else set())
    settings = {(row["stage"], row["base"]) for row in rows}
    both = {(s, b) for s in ("decoder", "autoregressive") for b in ("auto", "fp8", "int8", "nf4")}
    assert settings == both | {("glyph", "auto")}
    assert {row["stage"] for row in rows if row["edits"]} == {"decoder", "autoregressive"}
    for stage in ("decoder", "autoregressive"):
        own = [row for row in rows if row["stage"] == stage]
        assert any(row["gradient_checkpointing"] == 1 and row["cap_gib"] == 24 and row["base"] == "nf4" for row in own)
        assert any(row["offload"] and row["cap_gib"] == 24 for row in own)
    assert any(row["pack"] and row["base"] == "auto" for row in rows)
    assert rows[0]["environment"]["versions"]["torch"]


def test_no_time(tiny_model: Path, tmp_path: Path) -> None:
    out, script = tmp_path / "rows.jsonl", load_script("train_h200")
    given = [str(out), "--toy", "--model", str(tiny_model), "--device", "cpu", "--seconds", "0"]
    assert script.main(given) == 1
    assert {row["error"] for row in read_jsonl(out)} == {"no time left"}


def test_the_figures_that_are_asked_for_are_rows_at_full_size() -> None:
    script = load_script("train_h200")
    jobs = list(script.jobs(script.Scale()))
    sizes = {(job.name, job.height, job.pack) for job in jobs if not job.gradient_checkpointing and job.base == "auto"}
    assert sizes == {
        ("decoder", 1024, False),
        ("decoder", 512, False),
        ("autoregressive", 1024, False),
        ("autoregressive", 1024, True),
        ("glyph", 1024, False),
    }
    assert [job.batch for job in script.jobs(script.Scale(), ["compiled"])] == [4, 6, 1, 8, 16]
    packed = [(job.batch, job.compile) for job in script.jobs(script.Scale(), ["packed"])]
    assert packed == [(4, False), (8, False), (10, False), (4, True), (8, True), (10, True)]
    assert all(job.stage for job in jobs), "each is a valid stage"
