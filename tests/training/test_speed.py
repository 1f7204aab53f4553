"""glmkit bench train: the real step, on toy weights; floors as the published table counts them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from glmkit.cli import main
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import speed


@pytest.mark.parametrize("stage", ["decoder", "autoregressive"])
def test_rows(stage: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "train", "--model", str(tiny_model), "--stage", stage, "--size", "128x128", "--batch", "1", "2"]
    out = tmp_path / "rows.jsonl"
    assert main([*command, "--recompute", "1", "--steps", "2", "--device", "cpu", "--json", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["batch"] for row in rows] == [1, 2]
    for row in rows:
        assert 0 < row["of_floor"] < 1 and row["spread"][0] <= row["step"] <= row["spread"][1]
        assert row["samples_per_second"] == pytest.approx(row["batch"] / row["step"])


def test_floors_of_the_published_sizes() -> None:
    """TFLOP a sample of LoRA on the published sizes: 51.2 for 1481 tokens, about 127 for 1024x1024 without glyphs."""
    with torch.device("meta"):
        parts: Any = {
            part: checkpoint.build(part, checkpoint.PUBLISHED[checkpoint.PARTS[part].folder])
            for part in ("autoregressive", "decoder")
        }
    hybrid = cast(HybridModel, SimpleNamespace(**parts))
    codes, pixels = speed.Job("autoregressive", 1024, 1024, 1), speed.Job("decoder", 1024, 1024, 1)
    assert speed.operations(hybrid, codes, 1481) / 1e12 == pytest.approx(51.2, rel=0.02)
    assert speed.operations(hybrid, pixels, 4096) / 1e12 == pytest.approx(127.5, rel=0.01)
    again = speed.Job("decoder", 1024, 1024, 1, recompute_every=1)
    assert speed.operations(hybrid, again, 4096) / speed.operations(hybrid, pixels, 4096) == pytest.approx(
        1.45, abs=0.02
    )
