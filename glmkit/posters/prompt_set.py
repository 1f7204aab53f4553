"""Write the prompts `data/prompts`: captions of posters of nano's world, with their texts, and without images.

They are hard for nano: two lines, or a long one. No text comes twice, in either file, and none that nano is judged by:
neither held-out words nor the numbers and symbols of its benchmark.
`python -m glmkit.posters.prompt_set` writes the prompts again.
"""

from __future__ import annotations

import random
from pathlib import Path

from glmkit.files import write_jsonl
from glmkit.posters.grammar import caption, sample_scene
from glmkit.posters.sets import write_from_command_line
from glmkit.posters.simple import nano_prompts

COUNTS = {"train": 256, "validation": 32}
LEAST_CHARACTERS = 8  # of all lines
SIDE = 256  # pixels of the posters that the captions describe


def write_prompts(folder: Path) -> None:
    """Write `train.jsonl` and `validation.jsonl`, as `glmkit generate --prompts` takes them."""
    seen = {text.lower() for prompts in nano_prompts().values() for _, scene, _ in prompts for text in scene.texts}
    rng = random.Random("prompts to learn from 1")
    for name, count in COUNTS.items():
        records: list[dict[str, object]] = []
        while len(records) < count:
            scene = sample_scene(rng, height=SIDE, width=SIDE, split="train")
            texts = {text.lower() for text in scene.texts}
            if texts & seen or len("".join(texts)) < LEAST_CHARACTERS:
                continue
            seen |= texts
            id = f"{name}-{len(records) + 1:03d}"
            records.append({"id": id, "prompt": caption(scene, rng), "texts": list(scene.texts)})
        write_jsonl(folder / f"{name}.jsonl", records)


if __name__ == "__main__":
    write_from_command_line(write_prompts, "data/prompts")
