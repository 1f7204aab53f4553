"""Whether the texts of a prompt survive when it is rewritten: letter by letter, between quotes that the model reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from glmkit.errors import UserError
from glmkit.inputs.quotes import from_apostrophes, quoted_texts, shortened
from glmkit.text import check_text


def required_texts(prompt: str, texts: Sequence[str] | None) -> tuple[str, ...]:
    """Return the texts that must survive: those given beside the prompt, or, without any (None), those in its quotes.

    What only stands between the apostrophes of two words is no text.
    """
    if texts is not None:
        return tuple(texts)
    accidental = from_apostrophes(prompt)
    return tuple(text for text in quoted_texts(prompt) if text.strip() and text not in accidental)


def fault(prompt: str, rewritten: str, required: Sequence[str]) -> str:
    """Say why `rewritten` may not stand for the prompt; "" when it may.

    Every required text must be quoted in it, and nothing else but what the prompt quotes itself.
    """
    try:
        check_text(rewritten, "the rewritten prompt")
    except UserError as error:
        return error.what
    quoted = quoted_texts(rewritten)
    if lost := [text for text in required if text not in quoted]:
        return f"not in quotation marks, letter by letter: {shortened(' | '.join(lost))}"
    allowed = {*required, *quoted_texts(prompt)}.union(*map(quoted_texts, required))
    if new := [text for text in quoted if text not in allowed]:
        return f"in quotation marks, but no text of the prompt: {shortened(' | '.join(new))}"
    return ""


def typographic(rewritten: str, required: Sequence[str]) -> str:
    """Write ’ for apostrophes inside words, which would be read as quotes; those of required texts stay."""
    kept = "|".join(re.escape(text) for text in sorted(required, key=len, reverse=True))
    parts = re.split(f"({kept})", rewritten) if kept else [rewritten]
    return "".join(part if number % 2 else re.sub(r"(?<=\w)'(?=\w)", "’", part) for number, part in enumerate(parts))
