"""The `simple` split of the text-render suite: held-out words in the poster grammar, with full ground truth.

`python -m glmkit.posters.simple` prints the rows of `benchmarks/text_render/prompts.jsonl` that this module owns.
"""

from __future__ import annotations

import json
import random
from typing import Any

from glmkit.posters.grammar import Scene, caption, draw_scene

COUNT = 80


def simple_scenes() -> list[tuple[str, Scene, str]]:
    """(prompt id, scene, caption) of every prompt of the split; no headline comes twice."""
    prompts: list[tuple[str, Scene, str]] = []
    seen: set[str] = set()
    rng = random.Random("text-render simple 1")
    while len(prompts) < COUNT:
        scene = draw_scene(rng, split="held-out")
        words = {text.lower() for text in scene.texts}
        if words & seen:
            continue
        seen |= words
        prompts.append((f"simple-{len(prompts) + 1:03d}", scene, caption(scene, rng)))
    return prompts


def simple_rows() -> list[dict[str, Any]]:
    """The prompts as rows of the benchmark file."""
    return [
        {"id": name, "split": "simple", "language": "en", "prompt": prompt, "texts": list(scene.texts)}
        for name, scene, prompt in simple_scenes()
    ]


if __name__ == "__main__":
    for row in simple_rows():
        print(json.dumps(row, ensure_ascii=False))
