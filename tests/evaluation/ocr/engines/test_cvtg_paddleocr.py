"""The engine in an environment of its own, with a stand-in for PaddleOCR 2.10 that has its interface."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation import ocr
from glmkit.evaluation.ocr.engines import cvtg_paddleocr
from glmkit.evaluation.ocr.lines import OcrError, RecognizedLine
from glmkit.evaluation.ocr.process import recognize_images

ENGINE = "glmkit.evaluation.ocr.engines.cvtg_paddleocr"
STAND_IN = '''
"""Keeps to the interface of PaddleOCR 2.10: ocr(path, cls) -> pages of [box, (text, confidence)], None for no text."""
from pathlib import Path
from types import SimpleNamespace

class PaddleOCR:
    def __init__(self, use_angle_cls, lang, show_log, use_gpu, cpu_threads):
        print("paddle prints to stdout")
        assert (use_angle_cls, lang, use_gpu) == (True, "en", False) and cpu_threads >= 1
        home = Path(__file__).parent
        places = {f"{name}_model_dir": str(home / name) for name in ("det", "rec", "cls")}
        self.text_detector = SimpleNamespace(args=SimpleNamespace(**places))

    def ocr(self, path, cls):
        assert cls is True
        if "broken" in path:
            raise ValueError("cannot read")
        if "blank" in path:
            return [None]
        box = [[10.0, 4.5], [50.0, 2.0], [52.0, 20.0], [9.0, 21.0]]
        return [[[box, ("Grand", 0.75)], [box, (Path(path).stem, 0.5)]]]
'''


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A Python that finds the stand-in, and its weights, before anything else."""
    home = tmp_path / "environment"
    home.mkdir()
    (home / "paddleocr.py").write_text(STAND_IN)
    for name, version in (("paddleocr", "2.10.0"), ("paddlepaddle", "3.0.0")):
        place = home / f"{name}-{version}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for part in ("det", "rec", "cls"):
        (home / part).mkdir()
        for file in ("inference.pdmodel", "inference.pdiparams"):
            (home / part / file).write_text(f"{part} {file}")
    script = home / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{home}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_identity_tells_version_and_weights(python: str) -> None:
    identity = cvtg_paddleocr.identity(python)
    assert identity.engine == cvtg_paddleocr.NAME
    assert identity.versions == "paddlepaddle-3.0.0"
    assert identity.weights.keys() == cvtg_paddleocr.WEIGHTS.keys()
    expected = hashlib.sha256(b"rec inference.pdiparams").hexdigest()
    assert identity.weights["rec/inference.pdiparams"] == expected


def test_lines_nothing_and_failures(python: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("SALE 50%", "blank", "broken")]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    written, blank, broken = paths
    found = dict(recognize_images(dict.fromkeys(paths, 1024), f"{ENGINE}:{python}"))
    assert found[written] == (
        RecognizedLine("Grand", 0.75, (9, 2, 52, 21)),
        RecognizedLine("SALE 50%", 0.5, (9, 2, 52, 21)),
    )
    assert found[blank] == ()
    assert isinstance(found[broken], OcrError)
    assert str(found[broken]) == "ValueError: cannot read"


def test_lines_of_another_machine(python: str, tmp_path: Path) -> None:
    """Read there into a file, here from the file; a killed reading goes on where it stopped."""
    images, file = tmp_path / "images", tmp_path / "lines.jsonl"
    (images / "2").mkdir(parents=True)
    for number, name in enumerate(("2/a", "2/broken", "blank")):
        Image.new("RGB", (8, 8 + number)).save(images / f"{name}.png")
    program = Path(ocr.__file__).with_name("paddleocr_2_10_program.py")
    command = [python, str(program), "folder", str(images), str(file)]
    subprocess.run(command, check=True, capture_output=True)
    whole = file.read_text()
    first, _, rest = whole.partition("\n")
    lines = rest.splitlines(keepends=True)
    file.write_text("".join((first, "\n", lines[0], lines[1][:20])))
    subprocess.run(command, check=True, capture_output=True)
    assert file.read_text() == whole

    engine = f"{ENGINE}:{file}"
    assert cvtg_paddleocr.identity(str(file)) == cvtg_paddleocr.identity(python)
    Image.new("RGB", (9, 9)).save(tmp_path / "new.png")
    paths = [images / "2" / "a.png", images / "2" / "broken.png", images / "blank.png", tmp_path / "new.png"]
    found = dict(recognize_images(dict.fromkeys(paths, 1024), engine))
    assert found[paths[0]] == (RecognizedLine("Grand", 0.75, (9, 2, 52, 21)), RecognizedLine("a", 0.5, (9, 2, 52, 21)))
    assert found[paths[2]] == ()
    assert "ValueError: cannot read" in str(found[paths[1]])
    assert "has no lines of this image" in str(found[paths[3]])


def test_a_file_of_another_engine_is_neither_continued_nor_read(python: str, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"identity": {"paddleocr": "2.9"}}\n')
    program = Path(ocr.__file__).with_name("paddleocr_2_10_program.py")
    run = subprocess.run(
        [python, str(program), "folder", str(tmp_path), str(file)], capture_output=True, text=True, check=False
    )
    assert run.returncode
    assert "made by another engine" in run.stderr
    run = subprocess.run([python, str(program)], capture_output=True, text=True, check=False)
    assert run.returncode
    assert "PYTHON paddleocr_2_10_program.py folder IMAGES FILE" in run.stderr
    with pytest.raises(UserError, match="holds no recognized lines"):
        cvtg_paddleocr.identity(str(file))
    with pytest.raises(UserError, match="does not exist"):
        cvtg_paddleocr.identity(str(tmp_path / "no.jsonl"))


def test_no_environment_and_a_broken_one_say_how_to_make_it(python: str) -> None:
    for location in ("", "no/such/python"):
        with pytest.raises(UserError, match="environment of its own") as error:
            cvtg_paddleocr.identity(location)
        assert "pip install paddleocr==2.10.0" in str(error.value)
    (Path(python).parent / "paddleocr.py").write_text("raise ImportError('no paddle')")
    with pytest.raises(UserError, match=r"does not start.*\n.*ImportError: no paddle"):
        cvtg_paddleocr.identity(python)
