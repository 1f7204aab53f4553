"""A suite of three prompts, and the fake OCR engine within reach of OCR processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from glmkit.evaluation.suites import text_render
from glmkit.files import write_jsonl

TESTS = Path(__file__).parents[1]
PROMPTS = [
    {"id": "a", "prompt": "a sign 'Red Fox'", "texts": ["Red Fox"], "split": "short", "language": "en"},
    {"id": "b", "prompt": "a sign 'Owl' and 'Hare'", "texts": ["Owl", "Hare"], "split": "short", "language": "en"},
    {"id": "c", "prompt": "一块写着「狐狸」的牌子", "texts": ["狐狸"], "split": "zh", "language": "zh"},
]


@pytest.fixture
def ocr_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the engine `fake_ocr` importable everywhere; the file in which it notes what it read."""
    log = tmp_path / "ocr.log"
    log.touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("FAKE_OCR_LOG", str(log))
    return log


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a suite with `PROMPTS`."""
    path = tmp_path / "prompts.jsonl"
    write_jsonl(path, PROMPTS)
    monkeypatch.setattr(text_render, "SUITE", replace(text_render.SUITE, prompts=path))
    return "text-render"
