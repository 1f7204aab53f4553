"""What glmkit reward prints of images that OCR need not read, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from glmkit import temporary_files
from glmkit.api import pairs, rewards
from glmkit.cli import main
from glmkit.files import write_jsonl
from glmkit.training.rl.rewards import RewardSample
from glmkit.training.rl.rewards.content import ContentReward

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
    shutil.copy(folder / "images" / "a_0.png", folder / "images" / "cat.png")
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
    assert "without an image: 1 prompt, such as d" in printed.err
    assert "1 of 7 image files match no prompt and are not scored: cat.png (names like a.png" in printed.err
    assert values["rewards"]["content"]["constant"] == 0
    assert values["rewards"]["total"]["mean"] == 2 * values["rewards"]["content"]["mean"]


def _huge(path: Path) -> None:
    with path.open("wb") as handle:
        handle.truncate(1 << 36)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), _huge], ids=["pipe", "device", "64 GiB"]
)
@pytest.mark.parametrize("at", ["images/a_1.png", "base/a_0.png"])
def test_what_has_no_end_is_not_waited_for(
    at: str, make: Callable[[Path], object], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / at).unlink()
    make(folder / at)
    assert run(folder, "--reward", "content=2", "--json") == 0
    found = {f"{one['prompt_id']}_{one['seed']}": one["error"] for one in json.loads(capsys.readouterr().out)["images"]}
    assert at in found[Path(at).stem]
    assert found["b_0"] is None


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


def test_what_no_reward_speaks_of_has_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts without texts cannot be rewarded for them; those that no reward judges have no total of 0."""
    assert run(folder, "--reward", "kept:0=1") == 1  # none edits an image
    printed = capsys.readouterr()
    assert "these rewards say nothing of the prompts of 4 images" in printed.err
    assert "0.000" not in printed.out
    write_jsonl(folder / "prompts.jsonl", [{"id": "a", "prompt": "A 'red' card"}, *PROMPTS[1:]])
    for command in (["--reward", "content=1", "text=1"], []):
        assert run(folder, *command) == 2
        error = capsys.readouterr().err
        assert "prompts.jsonl has expected texts" in error
        assert "--texts-from quotes" in error
    write_jsonl(folder / "prompts.jsonl", [{"id": "a", "prompt": "A red card"}])
    assert run(folder, "--texts-from", "quotes") == 2
    assert "--reward without text" in capsys.readouterr().err


def test_rewards_that_compare_need_base_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["reward", "--images", str(folder / "images"), "--prompts", str(folder / "prompts.jsonl")]
    assert main([*common, "--reward", "content=1"]) == 2
    assert "--base DIR" in capsys.readouterr().err


def test_a_stopped_run_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was rewarded before is not rewarded again, and all that is printed and written is as of an undisturbed run.

    Images with an error are tried again; another image, prompt or reward is a new one.
    """
    options = ("--reward", "content=2", "--json")
    scored: list[int] = []
    score = ContentReward.score

    def counted(self: ContentReward, sample: RewardSample) -> float | None:
        scored.append(sample.image.width)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(self, sample)

    monkeypatch.setattr(rewards, "IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(ContentReward, "score", counted)
    assert run(folder, *options) == 130
    capsys.readouterr()
    assert run(folder, *options) == 0
    resumed = capsys.readouterr().out
    assert len(scored) == 2 + 1 + 2  # before, the one that was stopped, after
    assert run(folder, *options) == 0
    assert len(scored) == 5
    assert capsys.readouterr().out == resumed
    monkeypatch.setenv("GLMKIT_CACHE", str(folder / "other"))
    assert run(folder, *options) == 0
    assert capsys.readouterr().out == resumed
    stripes(folder / "images/b_0.png", 1)
    assert run(folder, *options) == 0
    assert len(scored) == 5 + 4 + 1
    write_jsonl(folder / "prompts.jsonl", [{**PROMPTS[0], "texts": ["blue"]}, *PROMPTS[1:]])
    stripes(folder / "base/b_0.png", 4)
    assert run(folder, *options) == 0
    assert len(scored) == 10 + 3 + 1


def test_pairs_of_a_stopped_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while pairs are written leaves nothing that the next run would stumble over."""
    given = (
        "--images",
        str(folder / "images"),
        "--prompts",
        str(folder / "prompts.jsonl"),
        "--base",
        str(folder / "base"),
    )

    def write(name: str) -> int:
        return main(["pairs", *given, "--reward", "content=1", "--out", str(folder / name)])

    assert write("undisturbed") == 0
    with monkeypatch.context() as patch:
        patch.setattr(pairs, "write_jsonl", lambda *_: os._exit(9))
        child = os.fork()
        if not child:
            write("pairs")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (folder / "pairs").exists()
    monkeypatch.setattr(temporary_files, "_cleaned", set())  # as in a process of its own
    assert write("pairs") == 0
    left, right = (
        sorted(path.relative_to(folder / name) for path in (folder / name).rglob("*"))
        for name in ("undisturbed", "pairs")
    )
    assert left == right
    for path in left:
        assert (folder / "pairs" / path).is_dir() or (folder / "pairs" / path).read_bytes() == (
            folder / "undisturbed" / path
        ).read_bytes()
    assert not [*folder.glob(".*")]


def test_edits_are_compared_with_what_they_edit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stripes(folder / "edited.png", 5)
    records = [{**PROMPTS[0], "condition_images": ["edited.png"]}, *PROMPTS[1:]]
    write_jsonl(folder / "prompts.jsonl", records)
    assert run(folder, "--reward", "kept:0=1", "--json") == 0
    found = {one["file"][-7:]: one["rewards"] for one in json.loads(capsys.readouterr().out)["images"]}
    assert found["a_0.png"] == {"kept:0": 1.0}
    assert found["a_1.png"]["kept:0"] < 0.1
    assert found["b_0.png"] == {}
    stripes(folder / "edited.png", 3)
    assert run(folder, "--reward", "kept:0=1", "--json") == 0
    found = {one["file"][-7:]: one["rewards"] for one in json.loads(capsys.readouterr().out)["images"]}
    assert found["a_1.png"] == {"kept:0": 1.0}
