"""Names of OCR engines."""

from __future__ import annotations

import pytest

from glmkit.errors import UserError
from glmkit.evaluation import engines


def test_every_engine_has_the_functions_that_reading_calls() -> None:
    for name in engines.names():
        module, where = engines.find(engines.named(f"{name}:/some/place:2"))
        assert where == "/some/place:2"
        assert all(callable(getattr(module, function)) for function in ("identity", "processes", "command"))


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'paddleocr'"):
        engines.named("paddle-ocr")
