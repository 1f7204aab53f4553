"""Names of OCR engines and suites, and that the guide knows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.ocr.lines import OcrError, reading_order
from glmkit.evaluation.ocr.process import recognize_images
from glmkit.evaluation.suites.shared.measured import MeasuredSuite
from glmkit.evaluation.suites.shared.oneig_overall import OneigOverall
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.posters import fonts


def test_every_engine_has_the_functions_that_reading_calls() -> None:
    for name in engines.names():
        module, location = engines.find(engines.resolve(f"{name}:/some/place:2"))
        assert location == "/some/place:2"
        assert all(callable(getattr(module, function)) for function in ("identity", "processes", "command"))


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'paddleocr'"):
        engines.resolve("paddle-ocr")


@pytest.mark.parametrize("engine", ["paddleocr", "rapidocr"])
def test_reads_words_digits_and_nothing(engine: str, tmp_path: Path) -> None:
    if engine == "rapidocr":
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
    found = dict(recognize_images(dict.fromkeys([written, blank, broken], 1024), engines.resolve(engine)))
    lines = found[written]
    assert isinstance(lines, tuple)
    assert [line.text for line in reading_order(lines)] == ["Harbour", "Pier 42"]
    assert all(line.confidence > 0.9 for line in lines)
    left, top, right, bottom = reading_order(lines)[0].box
    assert 20 <= left < right <= 384
    assert 30 <= top < bottom <= 110
    assert found[blank] == ()
    assert isinstance(found[broken], OcrError)


def test_the_guide_names_every_engine_and_every_public_suite() -> None:
    guide = (Path(__file__).parents[4] / "benchmarks" / "public_text.md").read_text(encoding="utf-8")
    public = [
        name
        for name in suites.names()
        if (one := suites.load(name)).official and not isinstance(one, (QuestionSuite, MeasuredSuite, OneigOverall))
    ]
    assert len(public) == 5
    assert not [name for name in (*public, *engines.names()) if f"`{name}" not in guide]
