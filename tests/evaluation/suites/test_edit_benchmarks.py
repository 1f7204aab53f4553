"""Public benchmarks of edits: their files and layouts in, both images to the judge, grades out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import question_files
from PIL import Image

from glmkit.commands.eval import table
from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.judges import engines
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.evaluation.suites.shared.base import family, why_not_official
from glmkit.files import read_jsonl, write_jsonl
from glmkit.records import Score

ITEMS = [("aa", "color_alter", "en", True), ("bb", "ps_human", "en", False), ("aa", "color_alter", "cn", True)]
GRADES = "Brief reasoning: fine.\nA: 5\nB: 4\nC: 4"


def judge(path: Path, answers: list[dict[str, Any]]) -> str:
    write_jsonl(path, answers)
    return engines.resolve(f"golden:{path}")


def errors(run: Path) -> list[str | None]:
    return [Score.from_dict(line).error for line in read_jsonl(run / "scores.jsonl")]


def test_a_run_of_gedit(tmp_path: Path) -> None:
    data = question_files.gedit(tmp_path / "data", ITEMS)
    folder = tmp_path / "results" / "mine" / "fullset"
    for key, task in (("aa", "color_alter"), ("bb", "ps_human")):
        (folder / task / "en").mkdir(parents=True)
        for name in (key, f"{key}_SRCIMG"):
            Image.new("RGB", (8, 8)).save(folder / task / "en" / f"{name}.png")
    answers = [{"prompt_id": "aa", "question_id": "sc", "answer": '{"score": [9, 7], "reasoning": ""}'}]
    answers += [{"prompt_id": "aa", "question_id": "pq", "answer": "[8, 6]"}]
    answers += [{"prompt_id": "bb", "question_id": name, "answer": "I cannot."} for name in ("sc", "pq")]
    given = judge(tmp_path / "a.jsonl", answers)
    plan = EvaluationPlan("gedit-en", judge=given, data=data, images=tmp_path / "results")
    summary = evaluate(plan, tmp_path / "run")
    assert {name: one["value"] for name, one in summary.scores.items()} == {"gedit_color_alter": 6.48074069840786}
    assert (summary.n_scored, summary.n_total, summary.no_share) == (1, 2, None)
    assert errors(tmp_path / "run") == [None, "judge: no list of scores: 'I cannot.'"]
    with Image.open(tmp_path / "run" / "references" / "bb" / "condition_image.png") as source:
        assert (source.size, source.getpixel((0, 0))) == ((20, 10), (1, 0, 0))


def test_gedit_shows_both_images_then_one(tmp_path: Path) -> None:
    suite: Any = suites.load("gedit-cn")
    (prompt,) = suites.prompts(suite, data=question_files.gedit(tmp_path, ITEMS))
    assert (prompt.id, prompt.language, prompt.split) == ("aa", "zh", "color_alter")
    followed, natural = suite.messages(prompt)
    assert "The instruction was: change aa\n" in followed.text
    assert "change aa" not in natural.text
    assert (followed.shows_both, followed.resized, natural.shows_both, natural.resized) == (True, True, False, True)
    assert len({one.key for one in (followed, natural, replace(natural, resized=False))}) == 3
    path = next(tmp_path.rglob("*.parquet"))
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop(["input_image"]), path)
    with pytest.raises(UserError, match="has no column input_image"):
        suites.prompts(suite, data=tmp_path)


def test_a_run_of_imgedit(tmp_path: Path) -> None:
    data = question_files.imgedit(tmp_path / "data", {"1": "add", "22": "style", "3": "style"})
    (tmp_path / "images").mkdir()
    for key in ("1", "22", "3"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{key}.png")
    said = {"1": GRADES, "22": "A: 2\nB: 3", "3": "Sorry."}
    answers = [{"prompt_id": key, "question_id": "grades", "answer": answer} for key, answer in said.items()]
    plan = EvaluationPlan("imgedit", judge=judge(tmp_path / "a.jsonl", answers), data=data, images=tmp_path / "images")
    summary = evaluate(plan, tmp_path / "run")
    assert {name: one["value"] for name, one in summary.scores.items()} == {"imgedit_add": 4.33, "imgedit_style": 2.5}
    assert "1 of 2 answers have not 3 grades, but 2, for instance" in summary.notes[0]
    assert errors(tmp_path / "run")[2] == "judge: no grade: 'Sorry.'"
    assert ("       images  imgedit_add (higher)" in table(summary), "are no\n" in table(summary)) == (True, False)
    assert "basic_edit.json is not the published file" in summary.why_not_official


def test_imgedit_sends_the_rubric_of_the_type(tmp_path: Path) -> None:
    suite: Any = suites.load("imgedit")
    data = question_files.imgedit(tmp_path, {"1": "add", "2": "style"})
    prompt = suites.prompts(suite, data=data)[1]
    (message,) = suite.messages(prompt)
    assert message.text == "Grade a style of change 2.\nA: 1 to 5"
    assert (message.image_first, message.shows_both, message.resized) == (False, True, False)
    assert suite.references(prompt)["condition_image"].getpixel((0, 0)) == (1, 0, 0)


def test_imgedit_is_official_with_its_judge_its_files_and_all_images() -> None:
    """Of the settings, temperature and seed must not be sent, as its own code sends none."""
    suite: Any = suites.load("imgedit")
    scores = [Score(f"{n}_0", str(n), 0, "add", "en", (), counts={"add/1": (5, 1)}) for n in range(737)]
    digests = {f"Basic/{name}": digest for name, digest in suite.official.files.items()} | {"x.jpg": "1"}
    name = "gpt-4o at https://api.openai.com/v1/"
    why: dict[str, tuple[str, ...]] = {}
    for judge_name in (name, f"{name}, temperature 0.0, seed 0"):
        identity = EngineIdentity(judge_name)
        why[judge_name] = why_not_official(suite.official, identity, digests, scores, {}, (), "judged")
    assert why[name] == ()
    assert family(suite, EngineIdentity(name), (), "judged") == "official"
    assert why[f"{name}, temperature 0.0, seed 0"] == (f"judged by {name}, temperature 0.0, seed 0, not by {name}",)
    changed = {path: hashlib.sha256(path.encode()).hexdigest() for path in digests}
    assert len(why_not_official(suite.official, EngineIdentity(name), changed, scores[1:], {}, (), "judged")) == 3


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("basic_edit.json", '{"1": {"id": "a.png"}}', "is missing"),
        ("basic_edit.json", '{"1": {"id": "a.png", "prompt": "b", "edit_type": "add"}}', "holds no images to edit"),
        ("basic_edit.json", "{}", "holds no images to edit"),
        ("prompts.json", '{"add": "Grade it."}', "has no rubric"),
    ],
)
def test_broken_files_of_imgedit(file: str, content: str, message: str, tmp_path: Path) -> None:
    data = question_files.imgedit(tmp_path, {"1": "add", "2": "add"})
    (data / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        suites.prompts(suites.load("imgedit"), data=data)


def test_one_image_to_edit_is_missing(tmp_path: Path) -> None:
    data = question_files.imgedit(tmp_path, {"1": "add", "2": "add"})
    (data / "original_images" / "add" / "002.png").unlink()
    with pytest.raises(UserError, match=r"002\.png does not exist"):
        suites.prompts(suites.load("imgedit"), data=data)


@pytest.mark.parametrize("name", ["gedit-en", "gedit-cn", "imgedit"])
def test_missing_files_say_what_to_fetch(name: str, tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(UserError) as error:
            suites.prompts(suites.load(name), data=data)
        assert "then --data" in str(error.value.fix)
