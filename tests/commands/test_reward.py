"""What glmkit reward prints of images that OCR need not read, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from glmkit.cli import main
from glmkit.files import write_jsonl

PROMPTS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "A 'red' card", "texts": ["red"]},
    {"id": "b", "prompt": "Two stripes"},
    {"id": "c", "prompt": "", "texts": ["red"]},
    {"id": "d", "prompt": "Not there"},
]


def stripes(path: Path, count: int) -> None:
    image = Image.new("RGB", (64, 64), "white")
    for number in range(count):
        ImageDraw.Draw(image).rectangle((4, 10 * number, 60, 10 * number + 5), fill="navy")
    path.parent.mkdir(exist_ok=True)
    image.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of four seeds with and without stripes, of which two base images have five."""
    write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    for name, seed, count in (("a", 0, 5), ("a", 1, 3), ("a", 2, 0), ("b", 0, 4)):
        stripes(tmp_path / f"images/{name}_{seed}.png", count)
    (tmp_path / "images/b_1.png").write_bytes((tmp_path / "images/b_0.png").read_bytes()[:80])
    stripes(tmp_path / "images/c_0.png", 5)
    for name in ("a_0", "b_0", "c_0"):
        stripes(tmp_path / f"base/{name}.png", 5)
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    common = ("reward", "--images", str(folder / "images"), "--prompts", str(folder / "prompts.jsonl"))
    return main([*common, "--base", str(folder / "base"), *arguments])


def test_shows_what_each_reward_thinks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--reward", "content=2", "--json") == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    found = {f"{one['prompt_id']}_{one['seed']}": one for one in values["images"]}
    assert [*found] == ["a_0", "a_1", "a_2", "b_0", "b_1", "c_0"]
    assert found["a_0"]["rewards"] == {"content": 1.0}
    assert found["a_0"]["total"] == 2.0
    assert found["a_0"]["advantage"] > found["a_1"]["advantage"] > found["a_2"]["advantage"]
    assert found["a_2"]["is_empty"]
    assert found["b_0"]["advantage"] is None  # the only one of its prompt
    assert "b_1.png" in found["b_1"]["error"]
    assert "b_1.png has no reward" in printed.err
    assert found["c_0"]["error"].startswith("prompt: the prompt is empty")
    assert "without an image: 1 prompts, such as d" in printed.err
    assert values["rewards"]["content"]["constant"] == 0
    assert values["rewards"]["total"]["mean"] == 2 * values["rewards"]["content"]["mean"]


def test_the_table_begins_with_the_best_of_each_prompt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--reward", "content=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["image", "a_0", "a_1", "a_2", "b_0"]
    assert lines[3].endswith("empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reward", "content"), "a reward is NAME=WEIGHT"),
        (("--reward", "content=-1"), "a reward is NAME=WEIGHT"),
        (("--reward", "content=1", "content=2"), "given twice"),
        (("--reward", "contents=1"), "did you mean 'content'"),
        (("--reward", "text=1", "--ocr", "paddel"), "unknown OCR engine"),
        (("--reward", "content=1", "--base", "nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *arguments) == 2
    assert message in capsys.readouterr().err


def test_rewards_that_compare_need_base_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["reward", "--images", str(folder / "images"), "--prompts", str(folder / "prompts.jsonl")]
    assert main([*common, "--reward", "content=1"]) == 2
    assert "--base DIR" in capsys.readouterr().err
