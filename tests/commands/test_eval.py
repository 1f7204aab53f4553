"""glmkit eval from the command line: what it prints, and what it says about bad input."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_ocr
import public_files
import pytest
from PIL import Image

from glmkit.cli import main
from glmkit.evaluation import plan, suites
from glmkit.evaluation.ocr.engines import paddleocr
from glmkit.files import read_jsonl
from glmkit.reporting.provenance import generation_settings

FIRST = suites.prompts(suites.load("text-render"), "regions", 3)


@pytest.fixture(autouse=True)
def quick_ocr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine instead of PaddleOCR, and a folder of its own to work in."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(Path(fake_ocr.__file__).parent), os.environ.get("PYTHONPATH", "")))
    )
    monkeypatch.setattr(plan, "DEFAULT_ENGINE", "fake_ocr")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for prompt in FIRST[:2]:
        fake_ocr.write(tmp_path / "images" / f"{prompt.id}.png", *prompt.texts)
    return tmp_path / "images"


def arguments(images: Path, *more: str) -> list[str]:
    return ["eval", "--suite", "text-render", "--split", "regions", "--limit", "3", "--images", str(images), *more]


def test_json_is_one_line_and_equals_the_summary_file(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(images, "--run", "run", "--json")) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    summary = json.loads(printed.out)
    assert summary.pop("run") == "run"
    assert summary == json.loads(Path("run/summary.json").read_text())
    assert (summary["n_scored"], summary["n_total"], summary["scores"]["ned"]["value"]) == (2, 3, 1.0)
    assert "1 of 3 images have no score" in printed.err


def test_table_and_default_folder(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(images)) == 0
    out = capsys.readouterr().out
    assert "regions  2/3     1.000 [1.000, 1.000]" in out
    (folder,) = Path("reports").iterdir()
    assert folder.name.startswith("text-render-images-")
    assert f"run folder: {folder}" in out
    assert main(arguments(images)) == 0
    assert main(arguments(images, "--count", "1")) == 0
    assert len(list(Path("reports").iterdir())) == 2


def test_a_benchmark_says_what_its_scores_may_be_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, images = public_files.cvtg(tmp_path / "data"), public_files.cvtg_images(tmp_path / "made", "red fox owl")
    command = ["eval", "--suite", "cvtg-2k", "--data", str(data), "--images", str(images), "--run", "run"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "scores: formula of CVTG-2K, OCR engine fake\n" in out
    assert "  not official: read by fake, not by PaddleOCR 2.10.0, " in out
    assert "  not official: 16 of 2000 images (1 per prompt)\n" in out
    assert json.loads(Path("run/summary.json").read_text())["family"] == "formula of CVTG-2K, OCR engine fake"


def test_nothing_scored_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / f"{FIRST[0].id}.png").write_bytes(b"not an image")
    assert main(arguments(tmp_path / "bad")) == 1
    assert "not scored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--suite text-rendr", "did you mean 'text-render'"),
        ("--suite text-render --split region --images images", "did you mean 'regions'"),
        ("--suite text-render --images nowhere", "image folder nowhere does not exist"),
        ("--suite text-render --limit 0", "limit must be at least 1"),
        ("--suite text-render --count 0", "images per prompt must be 1 to 10000"),
        ("--suite text-render --count 1000000000", "images per prompt must be 1 to 10000"),
        ("--suite text-render --seeds 4-1", "--seeds 0,1,2"),
        ("--suite text-render --seeds 1,2 --count 2", "do not go together"),
        ("--texts-from quotes", "--prompts FILE --texts-from quotes"),
        ("--suite text-render --images images --model nano", "leave out --model"),
        ("--suite text-render --images images --steps 3", "leave out --steps"),
        ("--suite text-render --images images --reuse 2", "leave out --reuse"),
        ("--suite text-render --images images --vae-tiling", "leave out --vae-tiling"),
        ("--suite text-render --model TINY --reuse 2 --steps 5", "so few steps leave nothing to a reuse of 2"),
        ("--suite text-render --model TINY --guided 0.5 --guidance 1", "guidance, which is off"),
        ("--suite text-render --model nanno", "did you mean 'nano'"),
        ("--suite text-render --model TINY --size 100x100", "multiples of 32"),
        ("--suite text-render --model TINY --size big", "WIDTHxHEIGHT"),
        ("--suite text-render --model TINY --adapter nowhere", "adapter nowhere does not exist"),
        ("--suite text-render --model TINY --device gpu", "unknown device 'gpu'"),
        ("--suite text-render --images images --data images", "leave out --data"),
        ("--suite text-render --images images --ocr paddle", "did you mean 'paddleocr'"),
        ("--suite text-render --images images --ocr paddleocr:/there", "needs no location"),
        ("--suite text-render --images images --ocr cvtg-paddleocr", "in an environment of its own"),
        ("--suite cvtg-2k --model nano", "--data DIR with CVTG/2.json"),
        ("--suite cvtg-2k --images images --data images", "CVTG/2.json does not exist"),
    ],
)
@pytest.mark.usefixtures("images")
def test_bad_input(command: str, message: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *command.replace("TINY", str(tiny_model)).split()]) == 2
    assert message in capsys.readouterr().err
    assert not Path("reports").exists()


def test_an_engine_that_is_not_installed(
    images: Path, monkeypatch: pytest.MonkeyPatch, uninstall: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "DEFAULT_ENGINE", paddleocr.__name__)
    uninstall("onnxruntime")
    assert main(arguments(images)) == 2
    assert 'pip install "glmkit[eval]"' in capsys.readouterr().err
    assert not Path("reports").exists()


def test_a_model_is_drawn_and_scored(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fake engine reads nothing in the tiny model's images, which is a score of 0 and no error."""
    command = ["eval", "--suite", "text-render", "--split", "zh", "--limit", "1", "--model", str(tiny_model)]
    assert main([*command, "--size", "64x64", "--steps", "1", "--device", "cpu", "--run", "run", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["model"], summary["n_scored"], summary["n_total"]) == (str(tiny_model), 1, 1)
    assert summary["scores"]["word_accuracy"]["value"] == 0
    assert len(list(Path("run/images").iterdir())) == 1
    settings = json.loads(Path("run/manifest.json").read_text())["settings"]
    assert (settings["steps"], settings["height"], settings["prompt_sizes"]) == (1, 64, False)
    assert not {"reuse", "guided"} & settings.keys()  # an exact run is one of before there were shortcuts


def test_the_shortcuts_of_a_run_are_in_its_manifest(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "--suite", "text-render", "--split", "zh", "--limit", "1", "--model", str(tiny_model)]
    command += ["--size", "64x64", "--steps", "6", "--device", "cpu", "--run", "run"]
    assert main([*command, "--reuse", "2", "--guided", "0.5"]) == 0
    settings = json.loads(Path("run/manifest.json").read_text())["settings"]
    assert (settings["reuse"], settings["guided"]) == (2, 0.5)
    assert generation_settings(settings) == "64x64 pixels, 6 steps, guidance 1.5, reuse 2, guided 0.5"
    (path,) = Path("run/images").iterdir()
    with Image.open(path) as image:
        assert (image.info["reuse"], image.info["guided"]) == ("2", "0.5")
    capsys.readouterr()
    assert main(command) == 2
    assert "guided was 0.5, now None" in capsys.readouterr().err


OWN = [
    {"id": "Café", "prompt": "A shop called 'Harbour'", "texts": ["Harbour"], "split": "shops", "seed": 3},
    {"prompt": "A sign, 『營業中』", "texts": ["營業中"], "steps": 5, "size": "64x96"},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".txt"])
def test_own_prompts_are_a_suite(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers, intervals and page as of a suite, for every format of `generate --prompts`."""
    file, more = tmp_path / f"mine{suffix}", ["--texts-from", "quotes"] if suffix == ".txt" else []
    if suffix == ".csv":
        file.write_text('id,prompt,texts\nCafé,"A shop",Harbour\n,A sign,營業中\n', encoding="utf-8-sig")
    elif suffix == ".tsv":
        file.write_text("ID\tPrompt\tTexts\nCafé\tA shop\tHarbour\n\tA sign\t營業中\n", encoding="utf-16")
    elif suffix == ".txt":
        file.write_text("A shop called 'Harbour'\n\nA sign, 「營業中」\n", encoding="utf-8")
    else:
        file.write_text("\n".join(map(json.dumps, OWN)), encoding="utf-8")
    first = "0001" if suffix == ".txt" else "Café"
    fake_ocr.write(tmp_path / "images" / f"{first}.png", "Harbour")
    fake_ocr.write(tmp_path / "images" / "2_0.png", "營業")
    command = ["eval", "--prompts", str(file), *more, "--images", "images", "--run", f"run{suffix}", "--json"]
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["suite"] == ("own-prompts-quotes" if more else "own-prompts")
    assert (summary["n_scored"], summary["n_total"], summary["n_prompts"]) == (2, 2, 2)
    assert summary["scores"]["word_accuracy"]["value"] == 3 / 4  # a word, and two of three characters
    assert summary["scores"]["ned"]["low"] is not None
    assert main(["report", f"run{suffix}", "--out", "page.html"]) == 0
    assert main(command) == 0
    encoding = "utf-16" if suffix == ".tsv" else "utf-8-sig"
    file.write_text(file.read_text(encoding).replace("Harbour", "Harbor"), encoding=encoding)
    assert main(command) == 2
    assert "suite_fingerprint was" in capsys.readouterr().err


def test_what_a_record_says_is_generated_and_scored(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    records = [
        *OWN,
        {"id": "edit", "prompt": "Make it say 'Pier'", "texts": ["Pier", "1"], "condition_images": ["a.png"] * 2},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    suite = suites.load("own-prompts")
    shop, sign, edit = suites.prompts(suite, data=tmp_path / "mine.jsonl")
    settings = plan.GenerationSettings("nano", (), 1, 32, 32, 9, 1.5, "float32")
    request = settings.request(shop, shop.seed)
    assert (request.id, request.seed, request.steps, request.texts) == ("Café_3", 3, 9, None)
    request = settings.request(sign, 0)
    assert (request.height, request.width, request.steps, request.texts) == (96, 64, 5, ("營業中",))
    assert (shop.language, sign.language) == ("en", "zh")
    assert settings.request(edit, 0).texts == ("Pier", "1")
    assert list(suite.references(edit)) == ["condition_image", "condition_image1"]
    assert list(plan.EvaluationPlan("own-prompts", data=tmp_path / "mine.jsonl").prompt_files()) == [
        "mine.jsonl",
        "a.png",
    ]


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "mute": ({}, "record 2: the prompt has no expected texts"),
    "half": ({"texts": ["Fox"], "prompt": "A blue sign \ud83d"}, "record 3: the prompt is not whole text"),
    "lost": ({"texts": ["Fox"], "condition_images": ["none.png"]}, "none.png does not exist"),
    "broken": ({"texts": ["Fox"], "condition_images": ["broken.png"]}, "broken.png"),
    "steps": ({"texts": ["Fox"], "steps": 0}, "the number of steps must be 1"),
    "seed": ({"texts": ["Fox"], "seed": 2**63}, "a seed must be"),
}


@pytest.mark.parametrize("is_generated", [True, False])
def test_prompts_that_cannot_be_used_are_rows_among_others(
    is_generated: bool, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records: list[dict[str, Any]] = [{"id": "good", "prompt": "A 'Fox'", "texts": ["Fox"]}]
    records += [{"id": name, "prompt": "A sign", **values} for name, (values, _) in UNUSABLE.items()]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "broken.png").write_text("no image")
    fake_ocr.write(tmp_path / "images" / "good.png", "Fox")
    source = ["--model", str(tiny_model), "--size", "64x64", "--steps", "1"] if is_generated else ["--images", "images"]
    assert main(["eval", "--prompts", "mine.jsonl", *source, "--device", "cpu", "--run", "run", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["n_scored"], summary["n_total"]) == (1, 1 + len(UNUSABLE))
    errors = {row["prompt_id"]: row["error"] for row in read_jsonl("run/scores.jsonl")}
    assert errors.pop("good") is None
    for name, (_, error) in UNUSABLE.items():
        if is_generated or name not in ("steps", "seed"):  # which concern no image that was made elsewhere
            assert errors[name].startswith("prompt: ")
            assert error in errors[name]


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ('{"prompt": "A sign"}', [], 'record 1: the prompt has no expected texts.*"texts".*--texts-from quotes'),
        ('{"prompt": "A sign"}', ["--texts-from", "quotes"], "has no expected texts"),
        ('{"prompt": "A sign", "texts": []}', [], "has no expected texts"),
        ('{"prompt": "A sign", "texts": [5]}', [], "record 1: texts must be a list of texts"),
        ('{"prompt": "A sign", "texts": ["a"], "width": 5}', [], "no key of a prompt file"),
        ('{"prompt": "A sign", "texts": ["a"], "condition_images": ["none.png"]}', [], "none.png does not exist"),
        ('{"prompt": "A sign", "texts": ["a"], "size": "65x64"}', [], "multiple"),
        ('{"prompt": "A sign", "texts": ["a"]}', ["--suite", "text-render"], "leave out --suite"),
        ("", [], "no records"),
    ],
)
def test_own_prompts_that_cannot_be_used(
    content: str, more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.jsonl").write_text(content)
    assert main(["eval", "--prompts", "mine.jsonl", "--run", "run", *more]) == 2
    assert re.search(message, capsys.readouterr().err, re.DOTALL)
    assert not Path("run").exists()
