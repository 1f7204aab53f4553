"""Runs with rewritten prompts: images of the new prompts, scores of the original ones, all of it recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chat_endpoint
import fake_ocr
import images_endpoint
import pytest
from PIL import Image

from glmkit.cli import main
from glmkit.evaluation import plan
from glmkit.files import read_json, read_jsonl, write_jsonl

PROMPTS = [
    {"id": "fox", "prompt": "a sign 'Red Fox'", "texts": ["Red Fox"]},
    {"id": "owl", "prompt": "a stubborn sign 'Owl'", "texts": ["Owl"]},
    {"id": "hen", "prompt": "a sign 'Hen'", "texts": ["Hen"]},
    {"id": "no", "prompt": "a refused sign 'No'", "texts": ["No"]},
]
BETTER = [{"prompt": "a sign 'Red Fox'", "rewritten": "a neon sign “Red Fox” at night"}]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[images_endpoint.Endpoint]:
    """One server that rewrites prompts and makes images, in which the fake engine reads nothing."""
    path = os.pathsep.join((str(Path(fake_ocr.__file__).parent), os.environ.get("PYTHONPATH", "")))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(plan, "DEFAULT_ENGINE", "fake_ocr")
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    with chat_endpoint.running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        yield server


def evaluate(run: str, *more: str) -> int:
    command = ["eval", "--prompts", "prompts.jsonl", "--model", "openai:gpt-image-1", "--size", "64x64", "--run", run]
    return main([*command, *more])


def test_an_evaluation_keeps_texts_and_says_everything(
    endpoint: images_endpoint.Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("raw", "--name", "raw") == 0
    assert evaluate("rewritten", "--name", "rewritten", "--rewrite", "endpoint:m") == 0
    said = capsys.readouterr().out
    assert "prompts: 2 of 4 rewritten by m at http" in said

    # Images are made of the new prompts; rows hold both, scores compare the texts of the original ones.
    rows = {row["prompt_id"]: row for row in read_jsonl(Path("rewritten/images.jsonl"))}
    assert (rows["fox"]["prompt"], rows["fox"]["rewritten"]) == ("a sign 'Red Fox'", "In soft light, a sign 'Red Fox'.")
    assert "rewritten" not in rows["owl"]
    assert "safety system" in rows["no"]["error"]
    assert {"In soft light, a sign 'Red Fox'.", "a stubborn sign 'Owl'"} < set(endpoint.prompts())
    with Image.open("rewritten/images/fox_0.png") as image:
        assert image.text["rewritten_from"] == "a sign 'Red Fox'"  # type: ignore[attr-defined]
    scores = {row["prompt_id"]: row for row in read_jsonl(Path("rewritten/scores.jsonl"))}
    assert scores["fox"]["expected"] == ["Red Fox"]
    summary, manifest = read_json(Path("rewritten/summary.json")), read_json(Path("rewritten/manifest.json"))
    assert manifest["settings"]["rewrite"] == summary["rewriting"]["rewriter"]
    why = "not in quotation marks, letter by letter: Owl"
    assert {key: summary["rewriting"][key] for key in ("prompts", "rewritten", "kept")} == {
        "prompts": 4,
        "rewritten": 2,
        "kept": {"owl": why},
    }

    # The report pairs them by their prompts, and shows what the model got.
    assert main(["report", "raw", "rewritten", "--out", "page.html"]) == 0
    page, report = Path("page.html").read_text(), read_json(Path("page.json"))
    assert f"2 of 4 prompts of rewritten were rewritten; one stayed as it was, owl ({why})" in page
    assert "In soft light, a sign &#39;Red Fox&#39;." in page
    assert "generated from prompts that were not rewritten in the same way" in page
    assert "generated with different settings" not in page
    change = next(one for one in report["differences"] if one["metric"] == "word_accuracy")
    assert (change["baseline"], change["run"], change["n"]) == ("raw", "rewritten", 3)
    image = next(one for one in report["images"] if one["run"] == "rewritten" and one["prompt_id"] == "fox")
    assert image["rewritten"] == "In soft light, a sign 'Red Fox'."

    # The same command goes on; another rewriter is another run.
    endpoint.asked.clear()
    files = {path: Path(path).read_bytes() for path in ("rewritten/scores.jsonl", "rewritten/images/fox_0.png")}
    assert evaluate("rewritten", "--name", "rewritten", "--rewrite", "endpoint:m") == 0
    assert [body["messages"][1]["content"].splitlines()[0] for body in endpoint.asked] == [
        "Prompt: a refused sign 'No'"
    ]
    assert {path: Path(path).read_bytes() for path in files} == files
    assert evaluate("rewritten", "--rewrite", "endpoint:m,seed=1") == 2
    assert "rewrite was" in capsys.readouterr().err


@pytest.mark.usefixtures("endpoint")
def test_a_run_without_rewriting_says_nothing_of_it() -> None:
    assert evaluate("raw") == 0
    for name in ("manifest.json", "summary.json", "images.jsonl"):
        assert "rewr" not in (Path("raw") / name).read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--suite", "text-render", "--images", "x"],
            "images and answers that are there already are taken as they are",
        ),
        (["--prompts", "edits.jsonl", "--model", "nano"], "prompts that edit an image are taken as they are"),
    ],
)
def test_what_cannot_be_rewritten_leaves_no_folder(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_ocr.write(tmp_path / "x" / "simple-001.png", "a")
    write_jsonl(tmp_path / "better.jsonl", BETTER)
    edit = {"prompt": "write 'A'", "texts": ["A"], "condition_images": ["x/simple-001.png"]}
    write_jsonl(tmp_path / "edits.jsonl", [edit])
    assert main(["eval", *more, "--rewrite", "better.jsonl", "--run", "run"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("run").exists()


def test_generate_takes_rewritten_prompts_and_skips_what_is_there(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", [{"id": "fox", "prompt": "a sign 'Red Fox'"}, {"id": "cat", "prompt": "c"}])
    write_jsonl(tmp_path / "better.jsonl", BETTER)
    command = ["generate", "--prompts", "prompts.jsonl", "--out", "images", "--model", str(tiny_model), "--json"]
    command += ["--size", "64x64", "--steps", "1", "--device", "cpu"]
    rewrite = ["--rewrite", "better.jsonl"]
    for counts in ({"generated": 2, "skipped": 0}, {"generated": 0, "skipped": 2}):
        assert main([*command, *rewrite]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == {"out": "images", "failed": 0, **counts}
        assert "1 of 2 rewritten by better.jsonl" in printed.err
        assert "cat: the file does not rewrite it" in printed.err
    rows: dict[str, Any] = {row["id"]: row for row in read_jsonl(Path("images/images.jsonl"))}
    assert (rows["fox"]["prompt"], rows["fox"]["rewritten"]) == ("a sign 'Red Fox'", BETTER[0]["rewritten"])
    with Image.open("images/fox.png") as image:
        assert image.text["prompt"] == BETTER[0]["rewritten"]  # type: ignore[attr-defined]
    assert main(command) == 0  # of the original prompt another image
    assert json.loads(capsys.readouterr().out)["generated"] == 1
    assert main(["generate", "a fox", "--out", "a.png", *rewrite]) == 2
    assert "in a folder of images" in capsys.readouterr().err
