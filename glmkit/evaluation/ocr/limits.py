"""What an OCR engine cannot read, said beside the scores: there a low score says nothing about the images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from glmkit.evaluation.metrics.text import normalise
from glmkit.evaluation.ocr import engines

MAX_SHOWN = 24  # letters


def limits(engine: str, expected: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Say in sentences what the engine does not read; `expected` maps a prompt to its texts."""
    module, location = engines.find(engine)
    sentences: list[str] = list(module.limits(location)) if hasattr(module, "limits") else []
    if hasattr(module, "characters"):
        known = set(normalise("".join(module.characters(location))))
        lacking = {prompt: found for prompt, texts in expected.items() if (found := _unknown(texts, known))}
        if lacking:
            letters = sorted(set().union(*lacking.values()))
            more = f" and {len(letters) - MAX_SHOWN} more" if len(letters) > MAX_SHOWN else ""
            sentences.append(
                f"the OCR engine has no letters for some texts of {len(lacking)} of {len(expected)} prompts, which "
                f"score too low: {' '.join(letters[:MAX_SHOWN])}{more}"
            )
    return tuple(sentences)


def _unknown(texts: Sequence[str], known: Collection[str]) -> set[str]:
    return {letter for text in texts for letter in normalise(text) if not letter.isspace() and letter not in known}
