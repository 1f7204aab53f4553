"""The edits of the nano-edit suite: 16 of each kind with held-out words, with full ground truth.

`python -m glmkit.posters.edit_set` prints `benchmarks/nano_edit/prompts.jsonl`.
"""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

from glmkit.posters.check_edits import kept_region
from glmkit.posters.edits import KINDS, Edit, draw_edit, words_of

OF_EACH_KIND = 16
LEAST_KEPT = 1 / 200  # of the pixels: fewer say nothing about what was kept


@cache
def edit_set() -> dict[str, Edit]:
    """Prompt id -> edit, kind by kind; no word comes twice in the set."""
    edits: dict[str, Edit] = {}
    seen: set[str] = set()
    rng = random.Random("nano edit 1")
    for kind in KINDS:
        number = 0
        while number < OF_EACH_KIND:
            edit = draw_edit(rng, kind, split="held-out")
            words = words_of(*edit.source.texts, *edit.target.texts)
            if not words & seen and kept_region(edit).mean() >= LEAST_KEPT:
                seen |= words
                number += 1
                edits[f"{kind}-{number:02d}"] = edit
    return edits


def edit_rows() -> list[dict[str, Any]]:
    """The edits as rows of the benchmark file; `texts` are those of the target."""
    return [
        {"id": name, "split": edit.kind, "language": "en", "prompt": edit.instruction, "texts": list(edit.target.texts)}
        for name, edit in edit_set().items()
    ]


if __name__ == "__main__":
    for row in edit_rows():
        print(json.dumps(row, ensure_ascii=False))
