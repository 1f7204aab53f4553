"""The second reader on rendered text, and its absence."""

from __future__ import annotations

import hashlib
import importlib.metadata

import pytest

from glmkit.errors import UserError
from glmkit.evaluation.ocr.engines import paddleocr, rapidocr

ENGINE = "glmkit.evaluation.ocr.engines.rapidocr"


def test_its_weights_are_others_than_those_of_paddleocr() -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="its package is for Python up to 3.12")
    identity = rapidocr.identity()
    assert set(identity.weights) == set(rapidocr.WEIGHTS)
    assert not set(identity.weights.values()) & set(paddleocr.identity().weights.values())
    path = rapidocr._weights() / rapidocr.WEIGHTS[0]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == identity.weights[rapidocr.WEIGHTS[0]]
    with pytest.raises(UserError, match="needs no location"):
        rapidocr.identity("folder")


def test_a_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        if name == rapidocr.PACKAGE:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="needs the package rapidocr-onnxruntime") as error:
        rapidocr.check()
    assert error.value.fix == "pip install --no-deps rapidocr-onnxruntime==1.4.4"
