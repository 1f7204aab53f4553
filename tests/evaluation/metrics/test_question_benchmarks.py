"""GenEval 2, WISE, T2I-CoReBench and UniGenBench++: what their own code gives for the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import question_files

from glmkit.evaluation import stats, suites
from glmkit.evaluation.metrics.geneval2 import forms
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.metrics.t2i_corebench import DIMENSIONS, says_yes
from glmkit.evaluation.metrics.unigenbench import DIMENSIONS as OF_UNIGENBENCH
from glmkit.evaluation.metrics.unigenbench import ENGLISH, KINDS, read_points
from glmkit.evaluation.metrics.wise import category, read_score
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.records import Answer, Score


def suite_of(name: str) -> QuestionSuite:
    suite = suites.load(name)
    assert isinstance(suite, QuestionSuite)
    return suite


def scored(prompt: str, counts: Mapping[str, tuple[float, float]], seed: int = 0) -> Score:
    return Score(f"{prompt}_{seed}", prompt, seed, "all", "en", (), counts=counts)


def value(scores: list[Score], metric: str) -> float | None:
    return stats.estimate(scores, metric).value


PROBABILITIES = ([0.9, 0.8], [1.0, 0.0, 0.5], [0.25] * 4)


def test_geneval2_averages_probabilities_of_right_words(tmp_path: Path) -> None:
    asked = [[(f"Is it {n}?", "Yes", "verb" if n else "object") for n in range(len(of))] for of in PROBABILITIES]
    suite = suite_of("geneval2")
    data = question_files.geneval2(tmp_path, [(f"prompt {n}", of) for n, of in enumerate(asked)])
    scores = []
    for prompt, of in zip(suites.prompts(suite, data=data), PROBABILITIES, strict=True):
        answers = {
            str(n): Answer("", "Yes" if p > 0.5 else "No", probabilities=({"Yes": p / 2, "no": 0.1, " yes": p / 2},))
            for n, p in enumerate(of, start=1)
        }
        texts = {name: answer.text for name, answer in answers.items()}
        scores.append(scored(prompt.id, dict(suite.judged(prompt, texts)) | dict(suite.measured(prompt, answers))))
        assert prompt.split == f"{len(of)}-atoms"
    assert value(scores, "geneval2_am") == pytest.approx(53.333333333333336, abs=1e-13)
    assert value(scores, "geneval2_gm") == pytest.approx(36.61760458079524, abs=1e-13)
    assert value(scores, "geneval2_object") == pytest.approx(100 * (0.9 + 1 + 0.25) / 3)
    assert value(scores, "geneval2_tifa") == pytest.approx(100 * (1 + 1 / 3 + 0) / 3)
    assert value(scores, "geneval2_count") is None
    assert value(scores, stats.NO) == 6 / 9
    with pytest.raises(UnreadableAnswerError, match="without probabilities"):
        suite.measured(prompt, {str(n): Answer("", "Yes") for n in range(1, 5)})


def test_geneval2_asks_for_numbers_that_no_no_answers(tmp_path: Path) -> None:
    asked = [("How many pigs are there?", "two", "count"), ("Are there any pigs?", "Yes", "object")]
    suite = suite_of("geneval2")
    (prompt,) = suites.prompts(suite, data=question_files.geneval2(tmp_path, [("two pigs", asked)]))
    assert suite.judged(prompt, {"1": "No", "2": " no."})[stats.NO] == (1, 1)
    assert suite.judged(prompt, {"1": "2", "2": "Nothing"})[stats.NO] == (0, 1)


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Are there any pigs?", "Yes", ("Yes", "yes", " yes", " Yes")),
        ("How many pigs are there?", "seven", ("seven", " seven", "Seven", " Seven", "7", " 7")),
        ("How many pigs are there?", "twelve", ("twelve", " twelve", "Twelve", " Twelve", "other", " other")),
    ],
)
def test_geneval2_knows_several_forms_of_an_answer(question: str, answer: str, expected: tuple[str, ...]) -> None:
    assert forms(question, answer) == expected


@pytest.mark.parametrize(
    "said", ["Score: 1", "score: 1", "Score 1", "1", "It is right.\nScore: 1.", "**Score**: 1", "score1"]
)
def test_wise_reads_a_score(said: str) -> None:
    assert read_score(said) == 1
    assert read_score(said.replace("1", "0")) == 0


@pytest.mark.parametrize("said", ["correct", "", "Score: 2", "Score: 10", "0\n1", "It is 1"])
def test_wise_reads_no_score(said: str) -> None:
    with pytest.raises(UnreadableAnswerError):
        read_score(said)


def test_wise_weights_its_categories() -> None:
    """NanoBanana-Pro of the published leaderboard: right images of 400, and of 120 in each other category."""
    right = {"culture": 359, "time": 98, "space": 112, "biology": 98, "physics": 104, "chemistry": 105}
    scores = [
        scored(str(n), {category(n): (1.0, 1)} if taken < right[category(n)] else {category(n): (0.0, 1)})
        for n, taken in ((n, n - min(m for m in range(1, n + 1) if category(m) == category(n))) for n in range(1, 1001))
    ]
    rounded = {name: round(value(scores, f"wise_{name}") or 0, 4) for name in right}
    assert list(rounded.values()) == [0.8975, 0.8167, 0.9333, 0.8167, 0.8667, 0.875]
    assert value(scores, "wise") == pytest.approx(0.876)
    assert value(scores[:880], "wise") is None  # without chemistry


@pytest.mark.parametrize(
    ("reply", "gemini", "qwen"),
    [
        ("yes", True, True),
        ("yes.", True, True),
        ("no", False, False),
        ("Yes", True, None),
        ("No, but yes", True, True),
        ("NO", False, None),
        ("unclear", None, None),
        ("yesterday, nothing", None, None),
        ("", None, None),
    ],
)
def test_t2i_corebench_looks_for_a_word(reply: str, gemini: bool | None, qwen: bool | None, tmp_path: Path) -> None:
    assert says_yes(reply) is qwen
    data = question_files.t2i_corebench(tmp_path, {"C-MI-001": ["a?", "b?"]})
    for name, expected in (("t2i-corebench", gemini), ("t2i-corebench-qwen", qwen)):
        suite = suite_of(name)
        (prompt,) = suites.prompts(suite, data=data)
        counts = suite.judged(prompt, {"1": reply, "2": "no"})
        assert counts.get("C-MI/1") == (None if expected is None else (expected, 1))
        assert bool(suite.note([reply])) is (expected is None)
        if expected is None:
            with pytest.raises(UnreadableAnswerError, match="no answer says yes or no"):
                suite.judged(prompt, {"1": reply, "2": reply})


def test_t2i_corebench_averages_images_whatever_their_prompts() -> None:
    """Prompt a has two images, 1 and 0; prompt b one, 1/3: the mean over images, not over prompts."""
    scores = [
        scored("a", {"C-MI/1": (1, 1)}),
        scored("a", {"C-MI/1": (0, 1), "C-MI/2": (0, 1)}, seed=1),
        scored("b", {"C-MI/1": (1, 1), "C-MI/2": (0, 1), "C-MI/3": (0, 1)}),
    ]
    assert value(scores, "t2i_corebench_c_mi") == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert value(scores, "t2i_corebench") is None
    others = [scored(name, {f"{name}/1": (0.5, 1)}) for name in DIMENSIONS if name != "C-MI"]
    assert value(scores + others, "t2i_corebench") == pytest.approx((4 / 9 + 11 * 0.5) / 12)


def xml(scores: str, analyses: str) -> str:
    return f"<description>\n<analysis> {analyses} </analysis>\n<score>{scores}</score></description>"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ("[1, 0]", [True, False]),
        ('[1.0, "1"]', [True, False]),
        ("(1, 2)", [True, False]),
        ("[True, False]", "does not count"),
        ("[1, None]", "does not count"),
        ("'10'", "does not count"),
        ("[1]", "no lists of 2"),
        ("one, two", "no lists of 2"),
    ],
)
def test_unigenbench_reads_lists(scores: str, expected: list[bool] | str) -> None:
    answer = xml(scores, '["it is", "it is not"]')
    if isinstance(expected, list):
        assert read_points(answer, 2) == expected
    else:
        with pytest.raises(UnreadableAnswerError, match=expected):
            read_points(answer, 2)


@pytest.mark.parametrize(
    "answer",
    [xml("[1, 0]", "[it is, it is not]"), xml("[1, 0]", '["one"]'), xml("[1, 0]", "7"), "<score>[1, 0]</score>", ""],
)
def test_unigenbench_reads_no_scores_without_analyses(answer: str) -> None:
    with pytest.raises(UnreadableAnswerError, match="no lists of 2"):
        read_points(answer, 2)


def test_unigenbench_pools_points(tmp_path: Path) -> None:
    kinds = {
        "0": ["Style", "Attribute - Color", "Attribute - Size"],
        "1": ["Attribute - Color", "Text Generation", "Text Generation"],
        "2": ["Grammar - Negation"],
    }
    suite = suite_of("unigenbench-en")
    answers = {"0": "[1, 0, 1]", "1": '[1, 1.0, "1"]', "2": "[None]"}
    scores = []
    for prompt in suites.prompts(suite, data=question_files.unigenbench(tmp_path, kinds)):
        said = xml(answers[prompt.id], str(["because"] * len(prompt.questions)))
        try:
            scores.append(scored(prompt.id, suite.judged(prompt, {"all": said})))
        except UnreadableAnswerError:
            assert prompt.id == "2"
    got = {name: value(scores, f"unigenbench_{name}") for name in ("style", "attribute", "text_generation", "grammar")}
    assert got == {"style": 1, "attribute": 2 / 3, "text_generation": 0.5, "grammar": None}
    assert value(scores, "unigenbench") is None
    rest = {name: (0.25, 1) for name, kinds in OF_UNIGENBENCH.items() for name in [next(iter(kinds))]}
    whole = [
        *scores,
        scored("9", {kind: pair for kind, pair in rest.items() if not kind.startswith(("Style", "Text", "Attr"))}),
    ]
    assert value(whole, "unigenbench") == pytest.approx((1 + 2 / 3 + 0.5 + 7 * 0.25) / 10)


def test_unigenbench_knows_each_kind_in_both_languages() -> None:
    assert (len(KINDS), len(ENGLISH), len(OF_UNIGENBENCH)) == (27, 27, 10)
    assert set(ENGLISH.values()) == set(KINDS)
