"""TIIF-Bench: prompts in two lengths, its folders of images, and answers that were published."""

from __future__ import annotations

from pathlib import Path

import pytest
import question_files
from PIL import Image
from question_files import TWO_TYPES, golden, judged, scores

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.evaluation.suites.shared.layouts import GridTile
from glmkit.files import read_json, write_json
from glmkit.reporting.build import write_report


def test_tiif_prompts_come_in_two_lengths_type_by_type(tmp_path: Path) -> None:
    suite = suites.load("tiif")
    prompts = suites.prompts(suite, data=question_files.tiif(tmp_path / "data", TWO_TYPES))
    assert [prompt.id for prompt in prompts] == [
        "shape-color-short-0",
        "shape-color-long-0",
        "negation-short-0",
        "negation-long-0",
        "shape-color-short-1",
        "shape-color-long-1",
    ]
    assert [question.expected for question in prompts[2].questions] == [True, False]
    assert prompts[3].prompt == "a table without a cat It is long."
    words = {"Is the text 'drink' in the image?": "Yes", "Is the text 'it's' in the image?": "Yes"}
    with_text = suites.prompts(suite, data=question_files.tiif(tmp_path / "text", {"text": [("a cup", words)]}))
    assert with_text[0].texts == ("drink", "it's")


@pytest.mark.parametrize("model", ["", "mine"])
def test_tiif_images_in_the_folders_of_the_benchmark(model: str, tmp_path: Path) -> None:
    data = question_files.tiif(tmp_path / "data", TWO_TYPES)
    for kind in TWO_TYPES:
        for length in ("short", "long"):
            path = tmp_path / "images" / kind / model / f"{length}_description" / "0.png"
            path.parent.mkdir(parents=True)
            path.touch()
    suite = suites.load("tiif")
    found = suite.find(tmp_path / "images", suites.prompts(suite, data=data))
    assert sorted(name for name, _ in found) == sorted(
        f"{kind}-{length}-0" for kind in ("shape-color", "negation") for length in ("short", "long")
    )
    assert not any(isinstance(image, GridTile) for image in found.values())


def published(folder: Path, kind: str, line: int, length: str, asked: list[str], answers: str) -> None:
    write_json(folder / kind / length / f"{line}.json", {"questions": asked, "model_output": answers, "model_pred": []})


def test_published_answers_are_scored_without_images(tmp_path: Path) -> None:
    styles = {"style": [("a cat in oils", {"Is it in oils?": "Yes"}), ("a dog in oils", {"Is it in oils?": "Yes"})]}
    data = question_files.tiif(tmp_path / "data", TWO_TYPES | styles)
    whole = [("a pen", {"Is it in oils?": "Yes"}), styles["style"][1], styles["style"][0]]
    question_files.tiif(data, {"style": whole, "real_world": []}, subset="test")
    folder = tmp_path / "answers of a judge" / "DALLE3"
    published(folder, "shape+color", 0, "short", ["Is there a star?", "Is it red?"], "yes, there.\nno, it is blue.")
    published(folder, "negation", 0, "short", ["Is there a table?", "Is there a cat?"], "Yes\nNo")
    published(folder, "negation", 0, "long", ["Is there a dog?", "Is there a cat?"], "yes\nyes")  # another question
    published(folder, "style", 2, "short", ["Is it in oils?"], "no")  # the cat, which is line 2 of the whole set
    summary = evaluate(EvaluationPlan("tiif", data=data, answers=folder), tmp_path / "run")
    found = scores(tmp_path / "run")
    assert {name for name, score in found.items() if score.error is None} == {
        "shape-color-short-0_0",
        "negation-short-0_0",
        "style-short-0_0",
    }
    assert found["negation-long-0_0"].error == "no published answer"
    assert (summary.n_scored, summary.n_total, summary.model) == (3, 10, "DALLE3")
    assert summary.scores["tiif_short"]["value"] == round((0.5 + 1 + 0) / 3, 4)
    assert "tiif_long" not in summary.scores
    assert summary.notes == (
        "tiif_short is a mean of 3 of 9 dimensions: no score of relation, attribute relation, attribute reasoning, "
        "relation reasoning, text, real world",
    )
    assert summary.family == "questions of TIIF-Bench testmini, judge published answers, answers of a judge"
    (data / "test_prompts" / "style_prompts.jsonl").unlink()
    with pytest.raises(UserError, match="numbered by"):
        evaluate(EvaluationPlan("tiif", data=data, answers=folder), tmp_path / "other")


def test_a_report_sets_a_run_beside_published_answers(tmp_path: Path) -> None:
    """On the prompts that both have: of two types the published answers have one."""
    lines = [(f"a star {number}", {"Is there a star?": "yes", "Is it red?": "yes"}) for number in range(30)]
    data = question_files.tiif(tmp_path / "data", {"shape+color": lines, "negation": TWO_TYPES["negation"]})
    rival, images = tmp_path / "GPT-4o" / "DALLE3", tmp_path / "images"
    images.mkdir()
    answers = {}
    for number in range(30):
        published(rival, "shape+color", number, "short", ["Is there a star?", "Is it red?"], "yes\nno")
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"shape-color-short-{number}.png")
        answers["shape-color-short-" + str(number), 0, "all"] = "yes\nyes" if number < 20 else "no\nno"
    Image.new("RGB", (8, 8), "white").save(images / "negation-short-0.png")
    answers["negation-short-0", 0, "all"] = "no\nyes"
    judge = golden(tmp_path / "answers.jsonl", answers)
    judged("tiif", tmp_path / "ours", judge, data=data, images=images, split="short", name="ours")
    evaluate(EvaluationPlan("tiif", data=data, answers=rival, split="short"), tmp_path / "theirs")
    page = tmp_path / "page.html"
    write_report([tmp_path / "theirs", tmp_path / "ours"], page)
    report = read_json(page.with_suffix(".json"))
    (difference,) = (change for change in report["differences"] if change["metric"] == "tiif_short")
    assert (difference["difference"] if "difference" in difference else difference["value"]) == pytest.approx(0.1667)
    assert difference["n"] == 30
    board = {standing["run"]: standing for standing in report["leaderboard"]}
    assert {
        name: (one["scores"]["tiif_short"]["value"], one["n_scored"], one["no_share"]) for name, one in board.items()
    } == {
        "DALLE3": (0.5, 30, 0.5),
        "ours": (0.6667, 30, pytest.approx(1 / 3)),
    }
    text = page.read_text(encoding="utf-8")
    assert "judged by different judges" in text
    assert "33 % no" in text
    published(rival.with_name("SD3"), "shape+color", 0, "short", ["Is there a star?", "Is it red?"], "yes\nyes")
    evaluate(
        EvaluationPlan("tiif", data=data, answers=rival.with_name("SD3"), split="short"), tmp_path / "more of theirs"
    )
    write_report([tmp_path / "theirs", tmp_path / "more of theirs"], page)
    assert "judged by different judges" not in page.read_text(encoding="utf-8")
