"""Sample the edits of the nano-edit suite: 16 of each kind with held-out words, with full ground truth.

`python -m glmkit.posters.edit_set` prints `benchmarks/nano_edit/prompts.jsonl`.
"""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

from glmkit.posters.check_edits import unchanged_region
from glmkit.posters.edits import KINDS, Edit, sample_edit, words_of
from glmkit.posters.render import render

EDITS_PER_KIND = 16
MIN_UNCHANGED = 1 / 200  # of the pixels: fewer say nothing about the background


@cache
def edit_set() -> dict[str, Edit]:
    """Return prompt id -> edit, kind by kind; no word comes twice in the set."""
    edits: dict[str, Edit] = {}
    seen: set[str] = set()
    rng = random.Random("nano edit 1")
    for kind in KINDS:
        number = 0
        while number < EDITS_PER_KIND:
            edit = sample_edit(rng, kind, split="held-out")
            words = words_of(*edit.condition.texts, *edit.target.texts)
            if (
                not words & seen
                and unchanged_region(render(edit.condition), render(edit.target)).mean() >= MIN_UNCHANGED
            ):
                seen |= words
                number += 1
                edits[f"{kind}-{number:02d}"] = edit
    return edits


def edit_records() -> list[dict[str, Any]]:
    """Return the edits as records of the benchmark file; `texts` are those of the target."""
    return [
        {"id": name, "split": edit.kind, "language": "en", "prompt": edit.instruction, "texts": list(edit.target.texts)}
        for name, edit in edit_set().items()
    ]


if __name__ == "__main__":
    for record in edit_records():
        print(json.dumps(record, ensure_ascii=False))
