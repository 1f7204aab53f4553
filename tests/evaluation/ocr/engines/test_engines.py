"""Names of OCR engines and suites, and that the guide knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.suites.shared.measured import MeasuredSuite
from glmkit.evaluation.suites.shared.oneig_overall import OneigOverall
from glmkit.evaluation.suites.shared.questions import QuestionSuite


def test_every_engine_has_the_functions_that_reading_calls() -> None:
    for name in engines.names():
        module, location = engines.find(engines.resolve(f"{name}:/some/place:2"))
        assert location == "/some/place:2"
        assert all(callable(getattr(module, function)) for function in ("identity", "processes", "command"))


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'paddleocr'"):
        engines.resolve("paddle-ocr")


def test_the_guide_names_every_engine_and_every_public_suite() -> None:
    guide = (Path(__file__).parents[4] / "benchmarks" / "public_text.md").read_text(encoding="utf-8")
    public = [
        name
        for name in suites.names()
        if (one := suites.load(name)).official and not isinstance(one, (QuestionSuite, MeasuredSuite, OneigOverall))
    ]
    assert len(public) == 5
    assert not [name for name in (*public, *engines.names()) if f"`{name}" not in guide]
