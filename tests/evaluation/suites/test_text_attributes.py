"""text-attributes: questions about place, colour and font of texts, answered exactly in nano's world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from scripts import load_script

from glmkit.errors import UserError
from glmkit.evaluation import stats, suites
from glmkit.evaluation.judges.engines import posters
from glmkit.evaluation.judges.messages import Inquiry, JudgeError, Message
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.evaluation.suites.text_attributes import SUITE
from glmkit.files import write_jsonl
from glmkit.posters.everyday.render import render
from glmkit.posters.everyday.scene import EverydayScene
from glmkit.records import Prompt, Score

control = load_script("everyday_control")
SIGN = {
    "id": "sign",
    "prompt": "“Vera Lund” at the top in navy serif letters, “5 June?” at the bottom in crimson, on ivory",
    "texts": ["Vera Lund", "5 June?"],
    "named": {"text_colours": ["navy", "crimson"], "places": ["top", "bottom"], "fonts": ["serif"]},
}


def prompts(folder: Path, *records: object) -> list[Prompt]:
    write_jsonl(folder / "mine.jsonl", records)  # type: ignore[arg-type]
    return suites.prompts(SUITE, data=folder / "mine.jsonl")


def test_the_questions_of_a_prompt(tmp_path: Path) -> None:
    (prompt,) = prompts(tmp_path, SIGN)
    assert [(one.id, one.text, one.expected, one.parents) for one in prompt.questions] == [
        ("1-there", "Does the image say 'Vera Lund'?", True, ()),
        ("1-text_colour", "Is the text 'Vera Lund' navy?", True, ("1-there",)),
        ("1-text_place", "Is the text 'Vera Lund' at the top?", True, ("1-there",)),
        ("1-text_font", "Is the text 'Vera Lund' written in serif letters?", True, ("1-there",)),
        ("2-there", "Does the image say '5 June?'?", True, ()),
        ("2-text_colour", "Is the text '5 June?' crimson?", True, ("2-there",)),
        ("2-text_place", "Is the text '5 June?' at the bottom?", True, ("2-there",)),
        ("other", "Is there any text in the image other than 'Vera Lund', '5 June?'?", False, ()),
    ]
    assert SUITE.messages(prompt)[0] == Message(
        "1-there", "Does the image say 'Vera Lund'? Answer yes or no.", ("Does the image say 'Vera Lund'?",)
    )
    beside = {**SIGN, "named": {"places": ["middle", "below"]}}
    places = [one.text for one in prompts(tmp_path, beside)[0].questions if one.group == "text_place"]
    assert places == ["Is the text '5 June?' below the text 'Vera Lund'?"]


def test_what_is_not_there_has_no_right_colour_and_other_text_is_wrong(tmp_path: Path) -> None:
    (prompt,) = prompts(tmp_path, SIGN)
    answers = {one.id: "Yes." for one in prompt.questions} | {"2-there": "no, it is blurred"}
    counts = SUITE.judged(prompt, answers)
    assert counts.pop(stats.NO) == (1, 8)
    assert {name: value for name, (value, _) in counts.items()} == {
        "text_there/1-there": 1,
        "text_colour/1-text_colour": 1,
        "text_place/1-text_place": 1,
        "text_font/1-text_font": 1,
        "text_there/2-there": 0,
        "text_colour/2-text_colour": 0,
        "text_place/2-text_place": 0,
        "no_other_text/other": 0,
    }
    score = Score("a", "p", 0, "all", "en", (), counts=counts)
    values = {metric: stats.estimate([score], metric).value for metric in SUITE.metrics}
    assert values == {
        "text_attributes": 3 / 5,
        "text_colour": 1 / 2,
        "text_place": 1 / 2,
        "text_font": 1,
        "text_there": 1 / 2,
        "no_other_text": 0,
    }
    with pytest.raises(UnreadableAnswerError):
        SUITE.judged(prompt, answers | {"other": "Perhaps"})


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"id": "a", "prompt": "p"}, "no expected text"),
        ({**SIGN, "named": {"fonts": ["a", "b", "c"]}}, "names more than it has texts"),
        ({**SIGN, "named": {"fonts": "serif"}}, "fonts is no list of texts"),
    ],
)
def test_prompts_that_cannot_be_asked_about(record: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        prompts(tmp_path, record)


def test_prompts_of_text_render_that_name_how_texts_look() -> None:
    found = suites.prompts(SUITE)
    splits = {prompt.split for prompt in found}
    assert splits == {"simple", "retro", "everyday-en", "everyday-zh", "multi-text", "long-words"}
    for prompt in found:
        assert {"retro"} >= {prompt.split for one in prompt.questions if one.group == "text_font"}


def lines_of(scene: EverydayScene) -> tuple[RecognizedLine, ...]:
    return tuple(RecognizedLine(block.text, 0.99, tuple(map(round, block.box))) for block in scene.blocks)  # type: ignore[arg-type]


def answer(question: str, image: Path, lines: Sequence[RecognizedLine]) -> bool:
    judge = posters.load("")
    said = judge.answer(Inquiry(Message("1", question, (question,)), image, "p", 0, tuple(lines)))
    return said.text == "yes"


def test_nanos_judge_answers_place_and_colour_of_each_text(tmp_path: Path) -> None:
    (prompt,) = prompts(tmp_path, SIGN)
    named = {"background": "ivory", "text_colours": ["navy", "crimson"], "places": ["top", "bottom"]}
    scene = control.scene_of(Prompt("sign", prompt.prompt, prompt.texts, named=named))
    image, lines = tmp_path / "sign.png", lines_of(scene)
    render(scene).save(image)
    for question in prompt.questions:
        if question.group == "text_font":
            with pytest.raises(JudgeError, match="no question about a poster"):
                answer(question.text, image, lines)
        else:
            assert answer(question.text, image, lines) is question.expected, question.text
    assert not answer("Is the text 'Vera Lund' crimson?", image, lines)
    assert not answer("Is the text '5 June?' at the top?", image, lines)
    assert answer("Is the text '5 June?' below the text 'Vera Lund'?", image, lines)
    assert not answer("Is the text 'Vera Lund' below the text '5 June?'?", image, lines)
    assert not answer("Is the text 'Nobody' navy?", image, lines)
    more = RecognizedLine("SALE", 0.99, (0, 100, 30, 110))
    other = prompt.questions[-1].text
    assert answer(other, image, [*lines, more])
    with pytest.raises(JudgeError, match="not sure"):
        answer(other, image, [*lines, RecognizedLine("SA", 0.6, (0, 100, 30, 110))])
    with pytest.raises(JudgeError, match="not sure"):
        answer("Is the text 'Vera Lund' shiny?", image, lines)
