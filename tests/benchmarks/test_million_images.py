"""The synthetic run of a large evaluation is one that `eval` and `report` take without generating or recognizing."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import load_script

from glmkit.files import read_jsonl

IMAGES = 200


@pytest.mark.thorough
def test_a_small_run_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("million_images")
    script.stage("make", tmp_path, IMAGES)
    monkeypatch.setattr("glmkit.generation.loading.load_model", None)  # nothing is missing
    monkeypatch.setattr("glmkit.evaluation.ocr.cache.recognize_images", None)
    journal = (tmp_path / "run" / "images.jsonl").read_bytes()
    assert script.stage("eval", tmp_path, IMAGES)["steps"].keys() == set(script.STEPS)
    assert (tmp_path / "run" / "images.jsonl").read_bytes() == journal
    scores = read_jsonl(tmp_path / "run" / "scores.jsonl")
    assert [score["error"] for score in scores] == [None] * IMAGES
    assert "report.html" in script.stage("report", tmp_path, IMAGES)["file_mib"]
