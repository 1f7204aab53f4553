"""Suites of newer benchmarks with questions: their files and layouts in, what a judge is sent, and scores out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import question_files
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.judges import engines
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.files import read_jsonl, write_json, write_jsonl
from glmkit.records import Prompt, Score, Summary

PIGS = [("How many pigs are in the image?", "two", "count"), ("Are there any pigs in the image?", "Yes", "object")]
CORE = {"C-MI-001": ["Is there a pot?", "Is there a pan?"], "R-RR-090": ["Is it open?"]}
HAND = "Action - Hand (Character/Anthropomorphic)"
POINTS = {"0": [HAND, "Attribute - Color"], "1": '{"Testpoints": ["Style" "Text Generation"]}'}
DATA = {
    "geneval2": lambda folder: question_files.geneval2(folder, [("two pigs", PIGS), ("a pig", PIGS[1:])]),
    "wise": lambda folder: question_files.wise(folder, (1, 401, 1000)),
    "t2i-corebench": lambda folder: question_files.t2i_corebench(folder, CORE),
    "t2i-corebench-qwen": lambda folder: question_files.t2i_corebench(folder, CORE),
    "unigenbench-en": lambda folder: question_files.unigenbench(folder, POINTS),
    "unigenbench-zh-long": lambda folder: question_files.unigenbench(folder, {"0": ["风格", "语法-否定"]}, "zh_long"),
}


def read(name: str, folder: Path) -> tuple[Any, list[Prompt]]:
    suite = suites.load(name)
    return suite, suites.prompts(suite, data=DATA[name](folder / name))


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def run(name: str, folder: Path, images: Path, answers: list[dict[str, Any]]) -> tuple[Summary, dict[str, Score]]:
    write_jsonl(folder / "answers.jsonl", answers)
    judge = engines.resolve(f"golden:{folder / 'answers.jsonl'}")
    plan = EvaluationPlan(name, judge=judge, data=DATA[name](folder / name), images=images)
    summary = evaluate(plan, folder / "run")
    return summary, {line["id"]: Score.from_dict(line) for line in read_jsonl(folder / "run" / "scores.jsonl")}


def test_what_a_judge_is_sent(tmp_path: Path) -> None:
    suite, (prompt, _) = read("geneval2", tmp_path)
    first, second = suite.messages(prompt)
    assert (first.text, first.max_tokens) == ("How many pigs are in the image? Answer in one word.", 1)
    assert (first.words[:2], second.words) == (("two", " two"), ("Yes", "yes", " yes", " Yes"))

    suite, prompts = read("wise", tmp_path)
    (message,) = suite.messages(prompts[1])
    assert not message.image_first
    assert 'PROMPT: "prompt 401"' in message.text
    assert 'EXPLANATION: "it shows 401"' in message.text
    assert [prompt.split for prompt in prompts] == ["culture", "time", "chemistry"]
    assert prompts[1].prompt == "prompt 401"  # what a model is asked for holds no explanation

    asked = 'Prompt: "about C-MI-001"\nQuestion: "Is there a pan?"'
    qwen, (prompt, _) = read("t2i-corebench-qwen", tmp_path)
    assert qwen.messages(prompt)[1].text == asked
    assert "must not fill in" in qwen.messages(prompt)[1].system
    gemini, _ = read("t2i-corebench", tmp_path)
    assert gemini.messages(prompt)[1].text == f"{qwen.messages(prompt)[1].system}\n{asked}"
    assert not gemini.messages(prompt)[1].system

    suite, (prompt, broken) = read("unigenbench-en", tmp_path)
    (message,) = suite.messages(prompt)
    assert not message.image_first
    assert "1. Action - Hand (what hands do" in message.text
    assert "2. Attribute - Color (the named colour): point 1\n" in message.text
    assert "each of the 2 points" in message.text
    assert suite.messages(broken) == ()
    suite, (prompt,) = read("unigenbench-zh-long", tmp_path)
    assert "2. 语法-否定 (提示词说没有的东西确实没有): point 1\n" in suite.messages(prompt)[0].text
    assert [question.group for question in prompt.questions] == ["Style", "Grammar - Negation"]


def test_geneval2_finds_images_by_the_paths_of_prompts(tmp_path: Path) -> None:
    """Its own form is a file that maps prompts to paths."""
    suite, prompts = read("geneval2", tmp_path)
    draw(tmp_path / "a" / "1.png", tmp_path / "b" / "elsewhere" / "x.png")
    write_json(tmp_path / "b" / "image_paths.json", {"two pigs": "elsewhere/x.png", "no prompt": "y.png"})
    assert list(suite.find(tmp_path / "a", prompts)) == [("1", 0)]
    assert suite.find(tmp_path / "b", prompts) == {("0", 0): tmp_path / "b" / "elsewhere" / "x.png"}


def test_a_run_of_geneval2(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "0.png", tmp_path / "images" / "1.png")
    answers: list[dict[str, Any]] = [
        {"prompt_id": "0", "question_id": "1", "answer": "2", "probabilities": [{"two": 0.25, "2": 0.5, "3": 0.2}]},
        {"prompt_id": "0", "question_id": "2", "answer": "Yes", "probabilities": [{"Yes": 0.75, "No": 0.1}]},
        {"prompt_id": "1", "question_id": "1", "answer": "Yes"},
    ]
    summary, scores = run("geneval2", tmp_path, tmp_path / "images", answers)
    assert scores["1_0"].error == "judge: the answer to question 1 came without probabilities"
    assert (summary.n_scored, summary.no_share) == (1, 0)
    assert summary.scores["geneval2_gm"]["value"] == pytest.approx(75)
    assert "geneval2_verb" not in summary.scores
    assert summary.family == "questions of GenEval 2, judge answers of a file"


def test_a_run_of_t2i_corebench(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "a model"
    draw(*(folder / "C-MI" / f"C-MI-001-{n}.png" for n in range(3)), folder / "R-RR" / "R-RR-090-0.png")
    replies = {("C-MI-001", 0): ("yes", "No."), ("C-MI-001", 1): ("unclear", "yes"), ("C-MI-001", 2): ("?", "")}
    answers = [
        {"prompt_id": name, "image": seed, "question_id": str(number), "answer": reply}
        for (name, seed), of in replies.items()
        for number, reply in enumerate(of, start=1)
    ]
    summary, scores = run("t2i-corebench", tmp_path, tmp_path / "logs", answers)
    assert summary.scores == {"t2i_corebench_c_mi": {"value": 0.75, "low": None, "high": None}}
    assert (summary.n_scored, summary.n_total) == (2, 6)
    assert summary.no_share == pytest.approx(1 / 3)
    assert "3 of 6 answers say neither yes nor no, such as 'unclear'" in summary.notes[0]
    assert scores["C-MI-001_2"].error == "judge: no answer says yes or no, such as '?'"


def test_a_run_of_unigenbench(tmp_path: Path) -> None:
    draw(*(tmp_path / "images" / f"{index}_{n}.png" for index in (0, 1) for n in range(2)))
    said = '<analysis>["a", "b"]</analysis><score>[1, 0]</score>'
    answers = [{"prompt_id": "0", "image": n, "question_id": "all", "answer": said} for n in range(2)]
    summary, scores = run("unigenbench-en", tmp_path, tmp_path / "images", answers)
    assert {name: one["value"] for name, one in summary.scores.items()} == {
        "unigenbench_action": 1,
        "unigenbench_attribute": 0,
    }
    assert "holds no test points for this prompt" in str(scores["1_1"].error)
    assert summary.why_not_official[-1] == "2 of 2400 images (4 per prompt)"


def test_a_run_of_wise(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "1.png", tmp_path / "images" / "1000.png")
    answers = [{"prompt_id": "1", "question_id": "score", "answer": "<think>0?</think>\n\nScore: 1"}]
    answers += [{"prompt_id": "1000", "question_id": "score", "answer": "correct"}]
    summary, scores = run("wise", tmp_path, tmp_path / "images", answers)
    assert {name: one["value"] for name, one in summary.scores.items()} == {"wise_culture": 1}
    assert scores["1000_0"].error == "judge: no score of 0 or 1: 'correct'"
    assert scores["401_0"].error == "not in the folder"


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("geneval2", "geneval2_data.jsonl", '{"prompt": "a"}', "is missing"),
        (
            "geneval2",
            "geneval2_data.jsonl",
            '{"prompt": "a", "atom_count": 1, "vqa_list": [["a?", "Yes"]], "skills": ["sight"]}',
            "no skill that is known",
        ),
        ("wise", "natural_science_verified.json", "{}", "must be a list"),
        (
            "wise",
            "natural_science_verified.json",
            '[{"Prompt": "a", "Explanation": "b", "prompt_id": 1001}]',
            "1 to 1,000",
        ),
        ("t2i-corebench", "C-TR.json", '{"C-TR-001": {"Prompt": "a", "Checklist": []}}', "has no questions"),
        ("t2i-corebench", "C-TR.json", '{"C-TR-001": {"Prompt": "a"}}', "Checklist is missing"),
        ("unigenbench-en", "test_prompts_en.csv", "index,prompt\n0,a\n", "needs lines with the columns"),
    ],
)
def test_broken_files(name: str, file: str, content: str, message: str, tmp_path: Path) -> None:
    data = DATA[name](tmp_path)
    (data / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        suites.prompts(suites.load(name), data=data)


@pytest.mark.parametrize("name", DATA)
def test_missing_files_say_what_to_fetch(name: str, tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(UserError, match=r"git clone https://github\.com/.*, then --data "):
            suites.prompts(suites.load(name), data=data)
