"""text-attributes: colour, place and font of the texts that prompts ask for, by questions to a judge.

The prompts are those of text-render that name any of these, or those of a file (`--data FILE.jsonl`) with records of
`id`, `prompt`, `texts` and `named`: lists `text_colours`, `places` and `fonts` with an entry per text, "" for none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.questions import first_word, without_parent
from glmkit.evaluation.metrics.text_attributes import LOOKS, METRICS
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.evaluation.suites.text_render import PROMPTS
from glmkit.files import read_jsonl
from glmkit.records import Prompt, Question

NAMED = ("text_colours", "places", "fonts")
GRAMMAR = ("simple", "retro")  # splits whose prompts name what their scenes show; retro names the font, too
BELOW = "below"  # the place of a text that stands under the one before
FAMILY = re.compile(r"\b(sans|wide|slab|rounded|serif) (?:letters|type)\b")
TEMPLATE = "{} Answer yes or no."


class TextAttributes(QuestionSuite):
    """Ask about each text alone, and whether there is any other."""

    asking = "text-attributes-1"
    metrics = METRICS
    official = None

    def files(self, data: Path | None) -> list[Path]:
        """Give the prompts of text-render, or the user's file; UserError when there is none."""
        if data is not None and not data.is_file():
            fix = '--data FILE.jsonl: {"id": "1", "prompt": "...", "texts": ["OPEN"], "named": {"fonts": ["serif"]}}'
            raise UserError(f"{data} is no file with prompts", fix=fix)
        return [PROMPTS if data is None else data]

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with the questions about their texts; of text-render those that name something of a text."""
        (path,) = files
        prompts = [Prompt.from_dict(line, f"{path}, line {n}") for n, line in enumerate(read_jsonl(path), start=1)]
        if path == PROMPTS:
            scenes = _scenes()
            asking = (with_questions(str(path), prompt, scenes.get(prompt.id, prompt.named)) for prompt in prompts)
            return [prompt for prompt in asking if any(one.group in LOOKS for one in prompt.questions)]
        return [with_questions(str(path), prompt, prompt.named) for prompt in prompts]

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask each question alone."""
        return tuple(Message(one.id, TEMPLATE.format(one.text), (one.text,)) for one in prompt.questions)

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> dict[str, tuple[float, float]]:
        """Compare each answer with the right one; what depends on a text that is not there is wrong."""
        said = {one.id: first_word(answers[one.id]) for one in prompt.questions}
        right = {one.id: float(said[one.id] == one.expected) for one in prompt.questions}
        right = without_parent(right, {one.id: one.parents for one in prompt.questions})
        return {
            **{f"{one.group}/{one.id}": (right[one.id], 1) for one in prompt.questions},
            NO: (list(said.values()).count(False), len(said)),
        }


def _scenes() -> dict[str, dict[str, list[str]]]:
    """Map the prompts of the poster grammar to what they name of their texts, as `Prompt.named` does."""
    from glmkit.posters.simple import nano_prompts

    named = {}
    for split in GRAMMAR:
        for name, scene, prompt in nano_prompts()[split]:
            count = len(scene.texts)
            family = FAMILY.search(prompt) if split == "retro" else None
            named[name] = {
                "text_colours": [scene.text_colour] * count,
                "places": [scene.position, *[BELOW] * (count - 1)],
                "fonts": [family[1]] + [""] * (count - 1) if family else [],
            }
    return named


def with_questions(where: str, prompt: Prompt, named: Mapping[str, Any]) -> Prompt:
    """Add the questions to a prompt; UserError for one that names texts which it does not have."""
    where = f"{where}: prompt {prompt.id!r}"
    if not prompt.texts or not all(text.strip() for text in prompt.texts):
        raise UserError(f"{where} has no expected text", found=list(prompt.texts), fix='"texts": ["OPEN"]')
    looks = {}
    for key in NAMED:
        values = named.get(key) or [""] * len(prompt.texts)
        if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
            raise UserError(f"{where}: {key} is no list of texts", found=repr(values)[:80], fix=f'"{key}": [""]')
        if len(values) > len(prompt.texts):
            found = f"{len(values)} {key}, {len(prompt.texts)} texts"
            raise UserError(f"{where} names more than it has texts", found=found, fix="an entry per text")
        looks[key] = [*values, *[""] * (len(prompt.texts) - len(values))]
    return Prompt(**{**vars(prompt), "named": {}, "questions": tuple(_questions(prompt.texts, **looks))})


def _questions(
    texts: Sequence[str], text_colours: Sequence[str], places: Sequence[str], fonts: Sequence[str]
) -> Iterator[Question]:
    """Ask what is known of each text; a question about its looks needs the text to be there.

    "In the middle" is not asked of a text with another below it: the two stand there together.
    """
    for number, text in enumerate(texts, start=1):
        quoted, there = f"'{text}'", f"{number}-there"
        place, following = places[number - 1], places[number : number + 1]
        asked = {
            "text_colour": f"{text_colours[number - 1]}?" if text_colours[number - 1] else "",
            "text_place": f"{_at(place)}?" if place else "",
            "text_font": f"written in {fonts[number - 1]} letters?" if fonts[number - 1] else "",
        }
        if place == BELOW and number > 1:
            asked["text_place"] = f"below the text '{texts[number - 2]}'?"
        elif place == BELOW or (following == [BELOW] and {"middle", "centre"} & set(place.split())):
            asked["text_place"] = ""
        yield Question(there, f"Does the image say {quoted}?", "text_there")
        for group, words in asked.items():
            if words:
                yield Question(f"{number}-{group}", f"Is the text {quoted} {words}", group, parents=(there,))
    others = ", ".join(f"'{text}'" for text in texts)
    yield Question("other", f"Is there any text in the image other than {others}?", "no_other_text", expected=False)


def _at(place: str) -> str:
    """Put a place into words: at the top left, in the middle, on the right."""
    row = {"left": "on the", "right": "on the", "middle": "in the", "centre": "in the"}.get(place, "at the")
    return f"{row} {place}"


SUITE = TextAttributes()
