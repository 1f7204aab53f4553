"""How benchmarks read answers and count them: what their own code gives for the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import question_files

from glmkit.evaluation import stats, suites
from glmkit.evaluation.metrics.chains import Chain, Step, mean, pool
from glmkit.evaluation.metrics.questions import UnreadableAnswerError, first_word, lines_of_answers
from glmkit.evaluation.metrics.tiif import DIMENSIONS, TYPES, gned, read_words, text_recall
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.records import Prompt, Score

YES, NO = "yes", "no"


def suite_of(name: str) -> QuestionSuite:
    suite = suites.load(name)
    assert isinstance(suite, QuestionSuite)
    return suite


def judged(
    suite: QuestionSuite, prompts: Sequence[Prompt], tiles: Mapping[str, Sequence[Sequence[str]]]
) -> list[Score]:
    """Score images by answers: prompt -> one list of answers per question, each with one answer per tile."""
    scores = []
    for prompt in prompts:
        for tile in range(len(tiles[prompt.id][0]) if prompt.id in tiles else 0):
            score = Score(f"{prompt.id}_{tile}", prompt.id, tile, prompt.split, "en", ())
            ids = [question.id for question in prompt.questions]
            answers = {name: replies[tile] for name, replies in zip(ids, tiles[prompt.id], strict=True)}
            try:
                counts = suite.judged(prompt, answers)
                scores.append(Score(**{**score.to_dict(), "counts": counts}))
            except UnreadableAnswerError as error:
                scores.append(Score(**{**score.to_dict(), "error": str(error)}))
    return scores


def same(*replies: str, tiles: int = 4) -> list[list[str]]:
    return [[reply] * tiles for reply in replies]


CHILD_FIRST = (("1", "2", "entity - a (x)"), ("2", "3", "entity - b (x)"), ("3", "0", "entity - c (x)"))
TWO_PARENTS = (("1", "0", "entity - a (x)"), ("2", "0", "entity - b (x)"), ("3", "1, 2", "relation - c (x)"))
TILES = [[YES, YES, NO, NO], [YES, YES, YES, YES], [YES, NO, YES, NO], [YES, YES, YES, NO]]  # yyyy yyny nyyy nynn


@pytest.mark.parametrize(
    ("rows", "tiles", "overall", "categories"),
    [
        pytest.param(
            question_files.DPG_ROWS,
            same(NO, YES, YES, YES),
            25.0,
            {"entity": 0, "attribute": 100, "global": 100},
            id="cascade",
        ),
        pytest.param(
            question_files.DPG_ROWS,
            same("Yes", "yes", " yes", "yes."),
            0.0,
            {"entity": 0, "attribute": 50, "global": 0},
            id="forms",
        ),
        pytest.param(
            question_files.DPG_ROWS,
            TILES,
            50.0,
            {"entity": 0, "attribute": 50, "global": 0},
            id="last tile decides categories",
        ),
        pytest.param(
            question_files.DPG_ROWS,
            same(YES, NO, YES, YES, tiles=1),
            50.0,
            {"entity": 100, "attribute": 50, "global": 100},
            id="one image",
        ),
        pytest.param(
            CHILD_FIRST, same(YES, YES, NO), 33.33333333333333, {"entity": 66.66666666666666}, id="child first"
        ),
        pytest.param(
            TWO_PARENTS, same(YES, NO, YES), 33.33333333333333, {"entity": 50, "relation": 100}, id="two parents"
        ),
    ],
)
def test_dpg(
    rows: question_files.Rows,
    tiles: list[list[str]],
    overall: float,
    categories: Mapping[str, float],
    tmp_path: Path,
) -> None:
    suite = suite_of("dpg")
    prompts = suites.prompts(suite, data=question_files.dpg(tmp_path, {"p": rows}))
    scores = judged(suite, prompts, {"p": tiles})
    assert stats.estimate(scores, "dpg").value == overall
    for name in ("global", "entity", "attribute", "relation", "other"):
        assert stats.estimate(scores, f"dpg_{name}_last_image").value == categories.get(name)


def test_dpg_categories_of_all_images_after_the_rule(tmp_path: Path) -> None:
    """Cascade: three of four questions fall in every tile; the categories add up to the overall."""
    suite = suite_of("dpg")
    prompts = suites.prompts(suite, data=question_files.dpg(tmp_path, {"p": question_files.DPG_ROWS}))
    scores = judged(suite, prompts, {"p": TILES})
    values = {name: stats.estimate(scores, f"dpg_{name}").value for name in ("entity", "attribute", "global")}
    assert values == {"entity": 50, "attribute": 37.5, "global": 75}  # 2 of 4, 3 of 8, 3 of 4: together 8 of 16
    assert stats.image_value(scores[1], "dpg") == 75
    assert stats.estimate(scores, stats.NO).value == 5 / 16


def test_dpg_passes_over_the_first_line_as_its_code_does(tmp_path: Path) -> None:
    """The prompt that owns the line keeps a question whose parent is gone, and has no score."""
    items = {"f": (("1", "0", "entity - a (x)"), ("2", "1", "entity - b (x)")), "p": (("1", "0", "entity - a (x)"),)}
    suite = suite_of("dpg")
    prompts = suites.prompts(suite, data=question_files.dpg(tmp_path, items, dummy=False))
    scores = judged(suite, prompts, {"f": same(YES), "p": same(YES)})
    assert {score.prompt_id: score.error for score in scores} == {
        "f": "a question depends on question 1, which is not there",
        "p": None,
    }
    assert stats.estimate(scores, "dpg") == (100.0, None, None, 1)
    assert stats.estimate(scores, "dpg_entity_last_image").value == 100


@pytest.mark.parametrize(
    ("dependency", "replies", "expected"),
    [
        pytest.param({"1": [0], "2": [1], "3": [2]}, same("No", "Yes", "Yes", tiles=1), 0.3333333333333333, id="level"),
        pytest.param(
            {str(n): [0] for n in range(1, 6)},
            same("Yes", "Yes.", "yes", "Yes, there is", "YES", tiles=1),
            0.2,
            id="forms",
        ),
        pytest.param({str(n): [0] for n in range(1, 4)}, same("", " Yes", "Yes ", tiles=1), 0.0, id="blanks"),
        pytest.param(
            {"1": [0], "2": [0], "3": [1, 2]}, same("Yes", "No", "Yes", tiles=1), 0.3333333333333333, id="two parents"
        ),
        pytest.param({"1": [0], "2": [7]}, same("Yes", "Yes", tiles=1), 1.0, id="unknown parent"),
        pytest.param(
            {"1": [0], "2": [1], "3": [1], "4": [0]},
            [
                ["Yes", "No", "Yes", "Yes"],
                ["Yes", "Yes", "No", "Yes"],
                ["No", "Yes", "Yes", "Yes"],
                ["Yes", "Yes", "Yes", "No."],
            ],
            0.625,
            id="four tiles",
        ),
    ],
)
def test_oneig_alignment(
    dependency: Mapping[str, list[int]], replies: list[list[str]], expected: float, tmp_path: Path
) -> None:
    suite = suite_of("oneig-alignment-en")
    asked = {number: f"Is it {number}?" for number in dependency}
    prompts = suites.prompts(suite, data=question_files.oneig(tmp_path, {"000": (asked, dependency)}))
    assert stats.estimate(judged(suite, prompts, {"anime-000": replies}), "oneig_alignment").value == expected


def test_oneig_alignment_without_one_prompt(tmp_path: Path) -> None:
    suite = suite_of("oneig-alignment-en")
    item = ({"1": "a?", "2": "b?"}, {"1": [0], "2": [1]})
    prompts = suites.prompts(suite, data=question_files.oneig(tmp_path, dict.fromkeys(("000", "001", "002"), item)))
    replies = [["Yes", "Yes", "No", "Yes"], ["Yes", "No", "Yes", "Yes"]]
    scores = judged(suite, prompts, {"anime-000": replies, "anime-002": replies})
    result = stats.estimate(scores, "oneig_alignment")
    assert (result.value, result.n) == (0.625, 2)


@pytest.mark.parametrize(
    ("answer", "count", "expected"),
    [
        ("yes, a cat.\nno, the cat is on top.", 2, [True, False]),
        ("Yes.\nNO", 2, [True, False]),
        ("1. yes, a cat\n2. no", 2, "0 answers to 2 questions"),
        ("nothing is there\nno", 2, "1 answers to 2 questions"),
        ("Here are the answers:\nyes\nno", 2, [True, False]),
        ("yes", 2, "1 answers to 2"),
        ("maybe\nyes", 2, "1 answers to 2"),
        ("yes, there is\na cat in the image\nno", 2, [True, False]),
        ("", 1, "0 answers to 1"),
    ],
)
def test_tiif_reads_lines_that_begin_with_yes_or_no(answer: str, count: int, expected: list[bool] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(UnreadableAnswerError, match=expected):
            lines_of_answers(answer, count)
    else:
        assert lines_of_answers(answer, count) == expected


@pytest.mark.parametrize(
    ("reply", "dpg", "oneig", "word"),
    [
        ("yes", 1, 0, True),
        ("Yes", 0, 1, True),
        ("Yes.", 0, 0, True),
        ("yes, because ...", 0, 0, True),
        ("No", 0, 0, False),
        ("1. yes", 0, 0, None),
        ("", 0, 0, None),
        ("other words", 0, 0, None),
        ("yesterday", 0, 0, None),
    ],
)
def test_the_same_answer_in_several_benchmarks(
    reply: str, dpg: int, oneig: int, word: bool | None, tmp_path: Path
) -> None:
    question_files.dpg(tmp_path, {"p": (("1", "0", "entity - a (x)"),)})
    question_files.oneig(tmp_path, {"000": ({"1": "a?"}, {"1": [0]})})
    for name, group, value in (("dpg", "entity", dpg), ("oneig-alignment-en", "alignment", oneig)):
        (prompt,) = suites.prompts(suite_of(name), data=tmp_path)
        assert suite_of(name).judged(prompt, {"1": reply})[f"{group}/1"] == (value, 1)
        note = suite_of(name).note([reply, reply])
        assert bool(note) == (reply not in ({"dpg": ("yes", "no"), "oneig-alignment-en": ("Yes", "No")}[name]))
    (prompt,) = suites.prompts(suite_of("dpg-first-word"), data=tmp_path)
    if word is None:
        with pytest.raises(UnreadableAnswerError):
            suite_of("dpg-first-word").judged(prompt, {"1": reply})
    else:
        assert first_word(reply) is word
        assert suite_of("dpg-first-word").judged(prompt, {"1": reply})["entity/1"] == (word, 1)


def typed(length: str, types: Mapping[str, tuple[int, int]]) -> list[Score]:
    """One prompt per type with so many right answers of so many."""
    return [
        Score(
            f"{kind}-{length}_0",
            f"{kind}-{length}",
            0,
            length,
            "en",
            (),
            counts={f"{length} {kind}/{number}": (float(number < right), 1) for number in range(asked)},
        )
        for kind, (right, asked) in types.items()
    ]


BASIC = ["shape+color", "color+texture", "numeracy"]
TYPED = {  # right / asked
    "short": {"shape+color": (2, 4), "color+texture": (2, 2), "numeracy": (2, 3), "style": (2, 3), "text": (1, 3)},
    "long": {"shape+color": (1, 2), "color+texture": (1, 1), "numeracy": (1, 3), "style": (0, 1), "text": (0, 3)},
}


def test_tiif_totals() -> None:
    values = {
        length: {
            name: round(stats.estimate(typed(length, types), f"tiif_{name}").value or 0, 4)
            for name in ("attribute", "reasoning", "style", "text", length)
        }
        for length, types in TYPED.items()
    }
    assert values == {
        "short": {"attribute": 0.75, "reasoning": 0.6667, "style": 0.6667, "text": 0.3333, "short": 0.6042},
        "long": {"attribute": 0.75, "reasoning": 0.3333, "style": 0.0, "text": 0.0, "long": 0.2708},
    }
    assert stats.estimate(typed("short", TYPED["short"]), "tiif_relation").value is None


@pytest.mark.parametrize(
    ("lengths", "kinds", "expected"),
    [
        (["short"], BASIC, 0.7222),
        (["short"], ["style", "text"], 0.5),
        (["short", "long"], [*BASIC, "style", "text"], 0.5),
    ],
    ids=["basic", "advanced", "mean of columns"],
)
def test_tiif_prints_other_means_of_types(
    lengths: list[str], kinds: list[str], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means over types, without dimensions: another weighting, that a chain declares as well."""
    groups = tuple(f"{length} {kind}" for length in lengths for kind in kinds)
    chain = Chain(groups, (Step(pool, ("group",), digits=4), Step(mean, digits=4)))
    monkeypatch.setattr(stats, "CHAINS", {"m": chain})
    scores = [score for length, types in TYPED.items() for score in typed(length, types)]
    assert stats.estimate(scores, "m").value == expected


DALLE3 = """2d_spatial_relation 19/21, 3d_spatial_relation 16/21, action+2d 21/27, action+3d 24/30, action+color 16/26,
action+texture 21/29, color+2d 14/15, color+3d 11/15, color+texture 23/25, comparison 18/21, comparison+2d 10/16,
comparison+3d 8/16, comparison+color 16/21, comparison+texture 8/15, differentiation 13/18, differentiation+2d 9/16,
differentiation+3d 13/17, differentiation+color 14/15, differentiation+texture 11/15, negation 15/21, negation+2d 11/16,
negation+3d 11/17, negation+color 11/18, negation+texture 15/18, numeracy 30/40, numeracy+2d 17/27, numeracy+3d 22/32,
numeracy+color 27/40, numeracy+texture 36/44, real_world 196/268, shape+2d 9/15, shape+3d 11/15, shape+color 36/50,
shape+texture 30/40, style 26/29, text 36/54, texture+2d 14/15, texture+3d 12/14, texture+color 25/25"""


def test_tiif_totals_of_published_answers() -> None:
    """The published answers about DALL-E 3, short prompts, judge GPT-4o (TIIF-Bench, eval-results): right / asked."""
    counts = {kind: count.split("/") for kind, count in (entry.split() for entry in DALLE3.split(","))}
    assert sorted(counts) == sorted(TYPES)
    scores = typed("short", {kind: (int(right), int(asked)) for kind, (right, asked) in counts.items()})
    expected = (0.8475, 0.8111, 0.7609, 0.7662, 0.7374, 0.6380, 0.6667, 0.8966, 0.7313)
    for name, value in zip(DIMENSIONS, expected, strict=True):
        assert round(stats.estimate(scores, f"tiif_{name}").value or 0, 4) == value
    assert stats.estimate(scores, "tiif_short").value == 0.7618


@pytest.mark.parametrize(
    ("length", "total", "counts"),
    [
        (
            "long",
            0.7173,
            "17/21 15/21 26/32 25/30 17/21 20/29 14/15 11/15 21/25 18/21 12/16 7/16 13/21 12/20 15/18 5/12 13/17 "
            "18/21 4/15 15/21 11/16 11/17 11/14 12/14 27/40 14/27 16/25 31/40 27/44 164/268 8/15 9/15 41/50 37/50 "
            "26/30 27/49 13/15 11/14 24/25",
        ),
        (
            "short",
            0.6765,
            "21/24 19/24 30/36 31/39 18/26 23/29 18/20 11/20 24/25 15/24 11/16 3/16 14/21 6/20 22/25 8/16 8/17 "
            "14/21 13/20 15/24 11/16 9/17 14/18 10/18 35/48 9/27 22/32 30/40 23/44 170/268 5/20 13/20 35/50 36/50 "
            "20/30 133/221 18/21 15/18 24/25",
        ),
        (
            "long",
            0.6622,
            "19/24 17/24 29/36 33/39 18/26 19/29 16/20 14/20 21/25 18/24 10/16 5/16 14/21 12/20 24/25 8/16 8/17 "
            "15/21 10/20 17/24 12/16 11/17 11/18 12/18 36/48 16/27 24/32 29/40 29/44 181/268 10/20 14/20 36/50 "
            "34/50 23/30 46/221 16/21 15/18 24/25",
        ),
        (
            "short",
            0.7166,
            "21/24 18/24 28/36 33/39 22/26 23/29 19/20 13/20 22/25 19/24 10/16 8/16 18/21 8/20 21/25 10/16 8/17 "
            "17/21 8/20 14/24 10/16 11/17 12/18 12/18 34/48 18/27 22/32 32/40 33/44 174/268 9/20 14/20 36/50 "
            "32/50 22/30 157/221 18/21 12/18 24/25",
        ),
        (
            "short",
            0.7447,
            "16/21 16/21 23/27 25/30 14/26 23/29 13/15 12/15 20/25 18/21 11/16 8/16 13/21 6/15 13/18 10/16 13/17 "
            "14/15 13/15 15/21 11/16 12/17 10/18 15/18 27/40 10/27 24/32 26/40 27/44 204/268 7/15 12/15 34/50 "
            "25/40 23/29 40/54 13/15 14/14 25/25",
        ),
        (
            "long",
            0.7294,
            "17/21 14/21 27/32 26/30 15/21 24/29 13/15 11/15 19/25 18/21 11/16 7/16 14/21 12/20 14/18 6/12 13/17 "
            "19/21 9/15 16/21 11/16 12/17 9/14 13/14 33/40 10/27 16/25 25/40 21/44 168/268 8/15 9/15 38/50 32/50 "
            "24/30 37/49 12/15 13/14 21/25",
        ),
    ],
    ids=["DALL-E 3 long", "SD3 short", "SD3 long", "SD3.5 short", "DALL-E 3 short, Qwen", "DALL-E 3 long, Qwen"],
)
def test_tiif_totals_of_more_published_answers(length: str, total: float, counts: str) -> None:
    """Right / asked of each type in alphabetical order; judge GPT-4o where no other is named."""
    pairs = [tuple(map(int, count.split("/"))) for count in counts.split()]
    scores = typed(length, dict(zip(sorted(TYPES), pairs, strict=True)))  # type: ignore[arg-type]
    assert stats.estimate(scores, f"tiif_{length}").value == total


@pytest.mark.parametrize(
    ("expected", "lines", "distance", "recall"),
    [
        (["drink", "tea"], ["drink", "tea"], 0, 1),
        (["drink", "tea"], ["drimk", "tea"], 0.1, 1),
        (["drink", "tea"], ["Drink"], 0.5, 0.5),
        (["a", "b"], ["a  b"], 0.3333333333333333, 1),
        (["tea"], [], 1, 0),
    ],
)
def test_tiif_text(expected: list[str], lines: list[str], distance: float, recall: float) -> None:
    read = read_words(lines)
    assert (gned(expected, read), text_recall(expected, read)) == (distance, recall)


def test_tiif_text_where_nothing_is_expected() -> None:
    assert gned([], []) == 0
    with pytest.raises(ZeroDivisionError):
        text_recall([], [])
