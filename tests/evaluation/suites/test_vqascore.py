"""VQAScore suites: prompts and layouts in, one score per version out."""

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
from glmkit.evaluation.suites.shared.vqascore import VERSIONS
from glmkit.files import read_jsonl, write_jsonl
from glmkit.records import Score

PROMPTS = {"00000": 'a sign that says "{}"', "00001": "two cats", "00002": "no dog"}


def answered(path: Path, listed: dict[str, list[dict[str, float]]]) -> str:
    write_jsonl(
        path,
        (
            {
                "prompt_id": name,
                "question_id": "answer",
                "answer": next(iter(positions[0]), "") if positions else "",
                "probabilities": positions,
            }
            for name, positions in listed.items()
        ),
    )
    return engines.resolve(f"golden:{path}")


def test_a_run_from_the_benchmarks_files_to_scores(tmp_path: Path) -> None:
    data = question_files.genai(tmp_path / "data", PROMPTS, basic=(0, 1))
    images = tmp_path / "DALLE_3"
    images.mkdir()
    for name in PROMPTS:
        Image.new("RGB", (8, 8)).save(images / f"{name}.jpeg")
    listed = {"00000": [{"No": 0.8, "Yes": 0.15}], "00001": [{"Yes": 0.9}], "00002": []}
    judge = answered(tmp_path / "answers.jsonl", listed)
    values = {}
    for version in ("gpt-1-2", "gpt-3-0"):
        plan = EvaluationPlan(f"vqascore-{version}", judge=judge, data=data, images=images)
        summary = evaluate(plan, tmp_path / version)
        values[version] = summary.scores[f"vqascore_{version.replace('-', '_')}"]["value"]
        assert (summary.n_scored, summary.n_total, summary.no_share) == (2, 3, 0.5)
        assert set(summary.splits) == {"basic", "advanced"}
    assert values == {"gpt-1-2": pytest.approx(0.525), "gpt-3-0": pytest.approx(0.55)}
    scores = [Score.from_dict(line) for line in read_jsonl(tmp_path / "gpt-1-2" / "scores.jsonl")]
    assert scores[2].error == "judge: the answer came without probabilities"


@pytest.mark.parametrize(
    ("version", "text", "image_first"),
    [
        ("t5", 'Does this figure show "a sign that says "{}""? Please answer yes or no.', True),
        ("qwen-3-0", 'Does this image show "a sign that says "{}""?', True),
        ("qwen-3-1", 'Does this figure show "a sign that says "{}""? Please answer Yes or No.', True),
        ("gpt-1-2", 'Does this figure show "a sign that says "{}""? Please answer yes or no.', False),
        ("gpt-3-0", 'Does this figure show "a sign that says "{}""? Please answer yes or no.', False),
        ("gpt-3-1", 'Does this figure show "a sign that says "{}""? Please answer Yes or No.', False),
    ],
)
def test_what_a_judge_is_sent(version: str, text: str, image_first: bool, tmp_path: Path) -> None:
    suite: Any = suites.load(f"vqascore-{version}")
    (message,) = suite.messages(suites.prompts(suite, data=question_files.genai(tmp_path, PROMPTS))[0])
    assert (message.text, message.image_first, message.max_tokens) == (text, image_first, 1)
    assert message.words[0] == "Yes"


def test_each_version_is_a_suite_with_a_metric_of_its_own() -> None:
    metrics = [metric for version in VERSIONS for metric in suites.load(f"vqascore-{version}").metrics]
    assert len(set(metrics)) == len(metrics) == 8


@pytest.mark.parametrize(
    ("version", "judge", "fix"),
    [
        ("gpt-3-0", "posters", "golden:... or openai"),
        ("qwen-3-0", "openai:gpt-4o", "golden:... or transformers"),
        ("t5", "transformers:folder", "--judge golden"),
    ],
)
def test_judges_without_the_probabilities_that_a_version_reads(
    version: str, judge: str, fix: str, tmp_path: Path
) -> None:
    data = question_files.genai(tmp_path, PROMPTS)
    with pytest.raises(UserError, match="does not give what") as error:
        evaluate(EvaluationPlan(f"vqascore-{version}", judge=engines.resolve(judge), data=data), tmp_path / "run")
    assert fix in str(error.value.fix)


def test_own_prompts_take_the_place_of_the_benchmarks(tmp_path: Path) -> None:
    suite = suites.load("vqascore-gpt-3-0")
    (tmp_path / "prompts.txt").write_text("a red cat\ntwo owls\n", encoding="utf-8")
    assert [prompt.prompt for prompt in suites.prompts(suite, data=tmp_path)] == ["a red cat", "two owls"]
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a cat", "size": "big"}', encoding="utf-8")
    with pytest.raises(UserError, match="cannot be used"):
        suites.prompts(suite, data=tmp_path)
    for data in (None, tmp_path / "empty"):
        with pytest.raises(UserError) as error:
            suites.prompts(suite, data=data)
        assert "GenAI-Bench" in str(error.value.fix)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "genai_image.json").write_text('{"00000": {}}', encoding="utf-8")
    with pytest.raises(UserError, match="prompt is missing"):
        suites.prompts(suite, data=tmp_path / "broken")
