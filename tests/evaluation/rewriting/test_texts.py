"""Texts of a prompt that is rewritten: they survive letter by letter between quotes, and none is added."""

from __future__ import annotations

import pytest

from glmkit.evaluation.rewriting.texts import fault, required_texts, typographic
from glmkit.inputs.quotes import quoted_texts


@pytest.mark.parametrize(
    ("prompt", "given", "required"),
    [
        ("a sign 'Red Fox' and “Owl”", None, ("Red Fox", "Owl")),
        ("It's a dog's day, says 'OPEN'", None, ("OPEN",)),
        ("It's a dog's day, says “OPEN”", None, ("OPEN",)),
        ("a sign that says OPEN", ["OPEN"], ("OPEN",)),
        ("a sign that says 'OPEN'", [], ()),
        ("a fox", None, ()),
    ],
)
def test_texts_are_those_given_or_those_in_quotes(
    prompt: str, given: list[str] | None, required: tuple[str, ...]
) -> None:
    assert required_texts(prompt, given) == required


@pytest.mark.parametrize(
    ("prompt", "rewritten", "said"),
    [
        ("a sign 'Red Fox'", 'A sign with "Red Fox" in red.', ""),
        ("a sign 'Red Fox'", "A sign with 「Red Fox」, and again “Red Fox”.", ""),
        ("a sign 'Red Fox'", 'A sign with "Red fox" in red.', "not in quotation marks, letter by letter: Red Fox"),
        ("a sign 'Red Fox'", "A sign with Red Fox in red.", "not in quotation marks"),
        (
            "a sign 'Red Fox'",
            "A sign with «Red Fox» in red.",
            "not in quotation marks",
        ),  # no quotes of the rule
        ("a sign 'Red Fox'", 'A sign with "the Red Fox".', "not in quotation marks"),
        ("a sign 'A' and 'B'", 'A sign with "A".', "letter by letter: B"),
        ("a sign 'A'", 'A sign with "A" and "SALE".', "but no text of the prompt: SALE"),
        ("a sign 'A'", "The shop's sign with “A”, the owner's.", "but no text of the prompt: s sign with"),
        ("a fox", "A red fox.", ""),
        ("a fox", " ", "the rewritten prompt is empty"),
        ("a fox", "x" * 20_000, "the rewritten prompt is too long"),
    ],
)
def test_a_rewritten_prompt_quotes_all_texts_and_no_other(prompt: str, rewritten: str, said: str) -> None:
    why = fault(prompt, rewritten, required_texts(prompt, None))
    assert said in why
    assert bool(why) == bool(said)


def test_quotes_inside_of_a_text_are_no_new_texts() -> None:
    text = "Don't stop, it's late"
    assert fault("a neon sign", f'A neon sign that says "{text}".', [text]) == ""


def test_apostrophes_inside_words_become_typographic_ones_but_in_texts() -> None:
    rewritten = typographic("""The shop's owner's sign: "DON'T RUN, IT'S WET" and 'A'.""", ["DON'T RUN, IT'S WET", "A"])
    assert rewritten == """The shop’s owner’s sign: "DON'T RUN, IT'S WET" and 'A'."""
    assert quoted_texts(typographic("the shop's and the owner's", [])) == []
