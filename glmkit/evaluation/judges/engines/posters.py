"""nano's world of posters: exact questions, answered by the pixels and by what OCR recognized.

It knows the questions in `RULES`, about background, shape and text of a poster (`glmkit.posters.grammar`). Pixels count
as sure when a smaller copy of the image reads the same, text when OCR is sure of it; anything else is the error of the
question, never a no. Nothing is downloaded, and the same image always gets the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Inquiry, JudgeError
from glmkit.evaluation.metrics.text import FOUND, assign, normalise, pieces
from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine, reading_order
from glmkit.evaluation.ocr.text_boxes import Box, text_boxes
from glmkit.inputs.images import read_image
from glmkit.records import Answer

ABOUT = "pixels and OCR, for nano's posters and questions about them alone"
READS_TEXT = True
IS_KEPT = True
NAME = "poster world, pixels and OCR"
SMALLER = 7 / 8  # side of the copy that must read the same
SURE = 0.8  # confidence of OCR from which a line counts
SIMILAR = 0.75  # of a text and a line of which OCR is not sure: they may be the same
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
NEAR = 0.02  # of the sides: a place is sure when the box may be moved by so much

Seen = dict[str, str]  # attribute of a poster (`posters.check.Attributes`) -> its value
Reader = Callable[["Look", Sequence[RecognizedLine], re.Match[str]], bool | None]
_PLACE = r"(?: (?:at|in) the (?P<place>(?:top|bottom)(?: left| right)?|middle)(?: corner)?)"


class PosterJudge:
    """Answer by rules; one inquiry at a time."""

    workers = 1

    def __init__(self) -> None:
        self._look = lru_cache(maxsize=1)(Look)  # questions about one image come one after another

    def answer(self, inquiry: Inquiry) -> Answer:
        """Answer each question of the message on a line of its own; JudgeError for one it is not sure of."""
        yes, no = inquiry.message.options
        answers = [self._answer(question, inquiry) for question in inquiry.message.questions]
        return Answer(inquiry.message.text, "\n".join(yes if answer else no for answer in answers))

    def _answer(self, question: str, inquiry: Inquiry) -> bool:
        asked = f"{question.rpartition('?')[0].strip()}?"
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
    return EngineIdentity(NAME, versions="rules 2")


def load(_location: str) -> PosterJudge:
    """Load nothing."""
    return PosterJudge()


class Look:
    """Look at an image and at a smaller copy of it: what the two show alike is sure."""

    def __init__(self, path: Path) -> None:
        from glmkit.posters.check import scale

        image = read_image(path)
        self.size = image.size
        copy = scale(image, *(max(1, round(side * SMALLER)) for side in image.size))
        self._images = (image.convert("RGB"), copy)

    @cached_property
    def seen(self) -> Seen:
        """Return the attributes of a poster that are sure."""
        from glmkit.posters.check import read_attributes

        first, second = (asdict(read_attributes(image)) for image in self._images)
        return {name: value for name, value in first.items() if value == second[name]}

    def has_ink(self, colour: str, box: Box) -> bool | None:
        """Tell whether the text in a box has a colour, None where that is not sure or the colour is not known."""
        from glmkit.posters.everyday.check import Named, check_attributes
        from glmkit.posters.everyday.colours import COLOURS

        if colour not in COLOURS:
            return None
        found = set()
        for image in self._images:
            ratio = image.width / self.size[0]
            scaled = (box[0] * ratio, box[1] * ratio, box[2] * ratio, box[3] * ratio)
            checked = check_attributes(np.asarray(image), Named(text_colours=(colour,)), [scaled])
            found |= {right for _, right in checked}
        return found.pop() if len(found) == 1 else None

    def stands_at(self, place: str, box: Box) -> bool | None:
        """Tell whether a box stands at a place, None where a small move would change that."""
        from glmkit.posters.everyday.check import stands_at

        moves = [(across * NEAR * self.size[0], down * NEAR * self.size[1]) for across, down in MOVES]
        moved = ((box[0] + x, box[1] + y, box[2] + x, box[3] + y) for x, y in moves)
        found = {stands_at(one, place, self.size) for one in moved}
        return found.pop() if len(found) == 1 else None


def _is(name: str, group: str) -> Reader:
    """Compare an attribute with a word of the question."""

    def read(look: Look, _lines: Sequence[RecognizedLine], match: re.Match[str]) -> bool | None:
        return None if name not in look.seen else look.seen[name] == match[group].lower()

    return read


def _has_shape(look: Look, _lines: Sequence[RecognizedLine], match: re.Match[str]) -> bool | None:
    """Compare the shape with whatever the question names of kind, colour and place; an unlike one is enough for no."""
    named = match.groupdict()
    wanted = {"shape": named["shape"], "shape_colour": named["colour"], "shape_position": named["place"]}
    seen = look.seen
    known = [seen[name] == word.lower() if name in seen else None for name, word in wanted.items() if word]
    return False if False in known else None if None in known else True


def _any_shape(look: Look, _lines: Sequence[RecognizedLine], _match: re.Match[str]) -> bool | None:
    return None if "shape" not in look.seen else look.seen["shape"] != "none"


def _says(_look: Look, lines: Sequence[RecognizedLine], match: re.Match[str]) -> bool | None:
    """Look for a line, or lines one after another, that are the text, case and width aside.

    A like one of which OCR is not sure decides nothing.
    """
    wanted = normalise(match["text"])
    read = [(normalise(line.text), line.confidence >= SURE) for line in reading_order(lines)]
    if (wanted, True) in read:
        return True
    unsure = (text for text, sure in read if not sure)
    if any(Levenshtein.normalized_similarity(wanted, text) >= SIMILAR for text in unsure):
        return None
    sure = [text for text, is_sure in read if is_sure]
    runs = (sure[start:stop] for start in range(len(sure)) for stop in range(start + 2, len(sure) + 1))
    return any(wanted in (" ".join(run), "".join(run)) for run in runs)


def _text_is(look: Look, lines: Sequence[RecognizedLine], match: re.Match[str]) -> bool | None:
    """Check colour or place of a text by the box in which it was read; a text that was not is nowhere."""
    named = {name: word.lower() for name, word in match.groupdict().items() if word and name not in ("text", "above")}
    above = match.groupdict().get("above")
    texts = [match["text"], *([above] if above else [])]
    boxes = text_boxes(texts, reading_order(lines))
    if None in boxes:
        return None if any(line.confidence < SURE for line in lines) else False
    box, *others = (box for box in boxes if box is not None)
    if above:
        return (box[1] + box[3]) / 2 > others[0][3]
    if "colour" in named:
        return look.has_ink(named["colour"], box)
    return look.stands_at(named["place"], box)


def _other_text(_look: Look, lines: Sequence[RecognizedLine], match: re.Match[str]) -> bool | None:
    """Look for words that belong to none of the texts; those that OCR is not sure of decide nothing."""
    texts = re.split("', '", match["texts"])
    sure = pieces([line.text for line in lines if line.confidence >= SURE])
    used = {index for one in assign(texts, sure) if one.similarity >= FOUND for index in range(one.start, one.stop)}
    if len(used) < len(sure):
        return True
    every = pieces([line.text for line in lines])
    used = {index for one in assign(texts, every) if one.similarity >= FOUND for index in range(one.start, one.stop)}
    return None if len(used) < len(every) else False


def _rule(pattern: str, read: Reader) -> tuple[re.Pattern[str], Reader]:
    return re.compile(pattern, re.IGNORECASE), read


_QUOTED = "'(?P<text>.+)'"
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
    _rule(rf"is the text {_QUOTED} below the text '(?P<above>.+)'\?", _text_is),
    _rule(rf"is the text {_QUOTED} (?:at|in|on) the (?P<place>(?:top|middle|bottom|left|right|centre| )+)\?", _text_is),
    _rule(rf"is the text {_QUOTED} (?P<colour>[a-z]+(?: [a-z]+)?)\?", _text_is),
    _rule(r"is there any text in the image other than '(?P<texts>.+)'\?", _other_text),
    _rule(r"does the (?:image|poster|sign|card) say ['\"](?P<text>.+)['\"]\?", _says),
)
