"""nano's world of posters: exact questions, answered by the pixels and by what OCR recognized.

It knows the questions in `RULES`, about background, shape and text of a poster (`glmkit.posters.grammar`). Pixels count
as sure when a smaller copy of the image reads the same, text when OCR is sure of it; anything else is the error of the
question, never a no. Nothing is downloaded, and the same image always gets the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Inquiry, JudgeError
from glmkit.evaluation.metrics.text import normalise
from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine
from glmkit.inputs.images import read_image
from glmkit.records import Answer

ABOUT = "pixels and OCR, for nano's posters and questions about them alone"
READS_TEXT = True
IS_KEPT = True
NAME = "poster world, pixels and OCR"
SMALLER = 7 / 8  # side of the copy that must read the same
SURE = 0.8  # confidence of OCR from which a line counts
SIMILAR = 0.75  # of a text and a line of which OCR is not sure: they may be the same

Seen = dict[str, str]  # attribute of a poster (`posters.check.Attributes`) -> its value
Reader = Callable[[Seen, Sequence[RecognizedLine], re.Match[str]], bool | None]
_PLACE = r"(?: (?:at|in) the (?P<place>(?:top|bottom)(?: left| right)?|middle)(?: corner)?)"


class PosterJudge:
    """Answer by rules; one inquiry at a time."""

    workers = 1

    def __init__(self) -> None:
        self._look = lru_cache(maxsize=1)(_look)  # questions about one image come one after another

    def answer(self, inquiry: Inquiry) -> Answer:
        """Answer each question of the message on a line of its own; JudgeError for one it is not sure of."""
        yes, no = inquiry.message.options
        answers = [self._answer(question, inquiry) for question in inquiry.message.questions]
        return Answer(inquiry.message.text, "\n".join(yes if answer else no for answer in answers))

    def _answer(self, question: str, inquiry: Inquiry) -> bool:
        asked = re.sub(r"\?.*", "?", question.strip(), flags=re.DOTALL)
        for pattern, read in RULES:
            if match := pattern.fullmatch(asked):
                answer: bool | None = read(self._look(inquiry.image), inquiry.lines, match)
                if answer is None:
                    raise JudgeError(f"not sure: {question}")
                return answer
        raise JudgeError(f"this is no question about a poster: {question}")

    def note(self) -> str:
        """Have nothing to say."""
        return ""


def check() -> None:
    """Need nothing but the OCR engine of the evaluation."""


def identity(location: str) -> EngineIdentity:
    """Name the rules; the OCR engine is named beside them by the plan."""
    if location:
        raise UserError("the judge posters needs no location", found=location, fix="--judge posters")
    return EngineIdentity(NAME, versions="rules 1")


def load(_location: str) -> PosterJudge:
    """Load nothing."""
    return PosterJudge()


def _look(path: Path) -> Seen:
    """Read the attributes of an image; those that a smaller copy shows otherwise are left out."""
    from glmkit.posters.check import read_attributes, scale

    image = read_image(path)
    copy = scale(image, *(max(1, round(side * SMALLER)) for side in image.size))
    first, second = asdict(read_attributes(image)), asdict(read_attributes(copy))
    return {name: value for name, value in first.items() if value == second[name]}


def _is(name: str, group: str) -> Reader:
    """Compare an attribute with a word of the question."""

    def read(seen: Seen, _lines: Sequence[RecognizedLine], match: re.Match[str]) -> bool | None:
        return None if name not in seen else seen[name] == match[group].lower()

    return read


def _has_shape(seen: Seen, _lines: Sequence[RecognizedLine], match: re.Match[str]) -> bool | None:
    """Compare the shape with whatever the question names of kind, colour and place; an unlike one is enough for no."""
    named = match.groupdict()
    wanted = {"shape": named["shape"], "shape_colour": named["colour"], "shape_position": named["place"]}
    known = [seen[name] == word.lower() if name in seen else None for name, word in wanted.items() if word]
    return False if False in known else None if None in known else True


def _any_shape(seen: Seen, _lines: Sequence[RecognizedLine], _match: re.Match[str]) -> bool | None:
    return None if "shape" not in seen else seen["shape"] != "none"


def _says(_seen: Seen, lines: Sequence[RecognizedLine], match: re.Match[str]) -> bool | None:
    """Look for a line that is the text, case and width aside; a like one of which OCR is not sure decides nothing."""
    wanted = normalise(match["text"])
    read = [(normalise(line.text), line.confidence >= SURE) for line in lines]
    if (wanted, True) in read:
        return True
    unsure = (text for text, sure in read if not sure)
    return None if any(Levenshtein.normalized_similarity(wanted, text) >= SIMILAR for text in unsure) else False


def _rule(pattern: str, read: Reader) -> tuple[re.Pattern[str], Reader]:
    return re.compile(pattern, re.IGNORECASE), read


_SHAPE = "(?P<shape>circle|triangle|hexagon|star|burst|stripe)"
RULES: Sequence[tuple[re.Pattern[str], Any]] = (
    _rule(r"is the background (?P<colour>\w+)\?", _is("background", "colour")),
    _rule(rf"is there an? (?:(?P<colour>\w+) )?{_SHAPE}{_PLACE}?\?", _has_shape),
    _rule(rf"is the {_SHAPE} (?P<colour>\w+)(?P<place>)\?", _has_shape),
    _rule(rf"is the (?P<colour>){_SHAPE}{_PLACE}\?", _has_shape),
    _rule(r"is there any shape\?", _any_shape),
    _rule(r"is the text (?P<colour>\w+)\?", _is("text_colour", "colour")),
    _rule(rf"is the text{_PLACE}\?", _is("text_position", "place")),
    _rule(r"is the text ['\"](?P<text>.+)['\"] in the image\?", _says),
    _rule(r"does the (?:image|poster|sign|card) say ['\"](?P<text>.+)['\"]\?", _says),
)
