"""The second reader on rendered text, and its absence."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from glmkit.errors import UserError
from glmkit.evaluation.ocr.engines import paddleocr, rapidocr
from glmkit.evaluation.ocr.lines import OcrError, reading_order
from glmkit.evaluation.ocr.process import recognize_images
from glmkit.posters import fonts

ENGINE = "glmkit.evaluation.ocr.engines.rapidocr"


def test_reads_words_digits_and_nothing(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="its package is for Python up to 3.12")
    written, blank, broken = (tmp_path / f"{name}.png" for name in ("written", "blank", "broken"))
    image = Image.new("RGB", (384, 256), "navy")
    pen = ImageDraw.Draw(image)
    font = fonts.load(next(iter(fonts.TYPEFACES)), 40)
    pen.text((30, 40), "Harbour", "white", font)
    pen.text((30, 150), "Pier 42", "yellow", font)
    image.save(written)
    Image.new("RGB", (64, 64), "white").save(blank)
    broken.write_bytes(written.read_bytes()[:200])
    found = dict(recognize_images(dict.fromkeys([written, blank, broken], 1024), ENGINE))
    lines = found[written]
    assert isinstance(lines, tuple)
    assert [line.text for line in reading_order(lines)] == ["Harbour", "Pier 42"]
    assert all(line.confidence > 0.9 for line in lines)
    left, top, right, bottom = reading_order(lines)[0].box
    assert 20 <= left < right <= 384
    assert 30 <= top < bottom <= 110
    assert found[blank] == ()
    assert isinstance(found[broken], OcrError)


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
