"""Malformed glyphs, by the rule of TextPecker (CIawevy/TextPecker on GitHub, `parse_utils_pecker.py`).

A model that was trained for it copies the text of an image, with `<#>` for a Chinese character or letter that is not
well formed, and `<###>` for such a word. The same copy gives the same number; what looks odd here is odd there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.metrics.tiif import gned

FIELD = "recognized_text"
_CLOSING: Mapping[str, str] = {'"': '"', "“": "”", "‘": "’", "'": "'", "〝": "〞"}
_PUNCTUATION = "，。！？,"
_CHINESE = re.compile("([\u4e00-\u9fff])")


def transcription(answer: str) -> str:
    """Read the copied text out of an answer in JSON; UnreadableAnswerError when it is none."""
    content: Any = None
    block = re.search(r"```json\s*(.*?)\s*```", answer, re.DOTALL)
    text = (block[1] if block else answer).strip()
    for candidate in (text[: text.rfind("}") + 1], _one_line(text[: text.rfind("}") + 1])):
        try:
            content = json.loads(candidate)
            break
        except ValueError:
            continue
    if isinstance(content, dict) and FIELD in content:
        copied = content[FIELD]
        if isinstance(copied, list) and all(isinstance(part, str) for part in copied):
            return cleaned(" ".join(copied))
        if isinstance(copied, str):
            return cleaned(copied)
    elif match := re.search(rf'"{FIELD}"\s*:\s*"(.*?)"', answer, re.DOTALL):
        return cleaned(match[1])
    raise UnreadableAnswerError(f"no {FIELD!r} in the answer: {answer[:120]!r}")


def _one_line(text: str) -> str:
    """Escape line breaks inside of texts, which JSON does not allow."""
    return re.sub(r'"([^"]*)"', lambda match: match[0].replace("\n", "\\n").replace("\r", "\\r"), text)


def cleaned(text: str) -> str:
    """Take out the quotes with which a copy marks texts, and the punctuation between them."""
    for written, meant in (("\\\\", "\\"), ("\\n", "\n"), ('\\"', '"'), ("\\'", "'")):
        text = text.replace(written, meant)
    if sum(text.count(mark) for mark in _CLOSING) < 2:
        return " ".join(re.sub(f"[{_PUNCTUATION}]+", " ", text).split())
    kept, opened = [], ""
    for letter in text:
        if letter in _CLOSING and not opened:
            opened = letter
        elif letter in _CLOSING and letter == _CLOSING[opened]:
            opened = ""
        else:
            kept.append(" " if not opened and letter in _PUNCTUATION else letter)
    return " ".join("".join(kept).split())


def quality(text: str) -> float:
    """Share the well-formed characters of a copy: 1 - marks / characters that are not blank, 0 where nothing is."""
    characters = len(_marked("".join(text.split())))
    return 0.0 if characters == 0 else max(0.0, min(1.0, 1 - text.count("#") / characters))


def semantic(text: str, expected: Sequence[str]) -> float:
    """Return 1 - GNED of copied and expected words in lower case; Chinese counts by characters."""
    target = " ".join(expected)
    copied = _marked(text)
    if "#" in target and "$" not in target:
        copied = copied.replace("#", "$")  # a mark is no expected character
    return 1 - gned(_words(target), _words(copied))


def _marked(text: str) -> str:
    return text.replace("<#>", "#").replace("<###>", "###")


def _words(text: str) -> list[str]:
    """Split at blanks, and Chinese characters from each other and from what stands before the next one.

    Letters behind the last Chinese character of a word are lost, as in the published code.
    """
    words: list[str] = []
    for word in text.lower().split(" "):
        parts = _CHINESE.split(word)
        words += [part for part in parts[:-1] if part] if len(parts) > 1 else [word]
    return words
