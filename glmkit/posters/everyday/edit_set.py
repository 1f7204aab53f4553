"""Sample the edits of the everyday-edit suite: 64 with held-out words, half of them of Chinese texts.

`python -m glmkit.posters.everyday.edit_set` prints `benchmarks/everyday_edit/prompts.jsonl`.
"""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

from glmkit.posters.check_edits import unchanged_region
from glmkit.posters.edits import words_of
from glmkit.posters.everyday.check_edits import margin
from glmkit.posters.everyday.edits import SHARES, EverydayEdit, sample_edit
from glmkit.posters.everyday.render import render

MIN_UNCHANGED = 1 / 200  # of the pixels: fewer say nothing about the background

MISREAD = frozenset({"explain", "type", "注入"})  # words that OCR misreads in true images


@cache
def edit_set() -> dict[str, EverydayEdit]:
    """Return prompt id -> edit, kind by kind, English and Chinese texts in turn; no word comes twice in the set."""
    edits: dict[str, EverydayEdit] = {}
    seen = set(MISREAD)
    rng = random.Random("everyday edit 1")
    for kind, count in SHARES.items():
        number = 0
        while number < count:
            edit = sample_edit(rng, kind, split="held-out", language=("en", "zh")[number % 2])
            words = words_of(*edit.condition.texts, *edit.target.texts)
            if not words & seen and is_judged(edit):
                seen |= words
                number += 1
                edits[f"{kind}-{number:02d}"] = edit
    return edits


def is_judged(edit: EverydayEdit) -> bool:
    """Tell whether an image can be held to the edit: by a text, its language, a place that is said, and what stays."""
    target, alike = edit.target, {(shape.kind, shape.colour) for shape in edit.new_shapes}
    others = [shape for shape in target.shapes if shape not in edit.new_shapes]
    return (
        bool(target.blocks)
        and edit.says_place
        and all(text.isascii() == (target.language == "en") for text in target.texts)
        and not alike & {(shape.kind, shape.colour) for shape in others}
        and unchanged_region(render(edit.condition), render(target), margin(edit)).mean() >= MIN_UNCHANGED
    )


def edit_records() -> list[dict[str, Any]]:
    """Return the edits as records of the benchmark file; `texts` are those of the target, `language` is theirs."""
    return [
        {
            "id": name,
            "split": edit.kind,
            "language": edit.target.language,
            "prompt": edit.instruction,
            "texts": list(edit.target.texts),
        }
        for name, edit in edit_set().items()
    ]


if __name__ == "__main__":
    for record in edit_records():
        print(json.dumps(record, ensure_ascii=False))
