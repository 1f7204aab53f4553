"""What looks quoted: the published rule decides, and people are shown what it passes over."""

from __future__ import annotations

import pytest

from glmkit.inputs.quotes import describe, describe_many, passed_over, warnings


@pytest.mark.parametrize(
    "quoted",
    [
        *(
            "„Hallo“",
            "„Hallo”",
            "«Hallo»",
            "« Hallo »",
            "»Hallo«",
            "»Hallo»",
            "‹Hallo›",
            "›Hallo‹",
            "‚Hallo‘",
            "‘Hallo’",
        ),
        *(
            "『Hallo』",
            "《Hallo》",
            "【Hallo】",
            "＂Hallo＂",
            "“Hallo“",
            "”Hallo”",
            '“Hallo"',
            '"Hallo”',
            "`Hallo`",
            "〝Hallo〟",
        ),
    ],
)
def test_what_the_rule_passes_over_is_shown_with_what_to_write(quoted: str) -> None:
    prompt = f"A sign that says {quoted} and 「OPEN」 in red"
    assert passed_over(prompt) == [quoted]
    first, second = describe(prompt)
    assert first == "texts: OPEN"
    assert second.endswith('write "Hallo"')


@pytest.mark.parametrize(
    "prompt",
    [
        "A sign that says \"a\", “b”, 「c」 and 'd'",
        "The dog’s bone and the cats’ milk",
        "D’un café l’été",
        "no quotes at all",
        "5 < 6 > 4",
        "",
    ],
)
def test_nothing_to_say(prompt: str) -> None:
    assert warnings(prompt) == []


def test_apostrophes_that_make_a_text() -> None:
    assert warnings("It's a dog's day") == ["  read between apostrophes: s a dog; write ’ for an apostrophe"]


def test_texts_that_were_given() -> None:
    assert describe("Ein Schild „Hallo“", ["Hallo"]) == ["texts: Hallo, as given"]


def test_many_prompts() -> None:
    lines = describe_many({"a": 'says "A"', "b": "sagt „B“", "c": "nothing"})
    assert lines == ["texts: in quotes in 1 of 3 prompts", '  b: not read as texts: „B“; write "B"']
    assert describe_many({"a": 'says "A"'}, 2) == ["texts: in quotes in 1 of 1 prompts, given beside 2 prompts"]
    assert describe_many({}, 2) == ["texts: given beside 2 prompts"]
    assert len(describe_many({f"{number}": "sagt „B“" for number in range(100)})) == 7
