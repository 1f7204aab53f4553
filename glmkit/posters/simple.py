"""Sample the splits of the text-render suite that judge nano: held-out words, and symbols, in the poster grammar.

`simple` and its sizes ask for what nano was trained on, with full ground truth; `retro` asks for the style of
`data/posters` and `layouts` for those of `data/layouts` by their names, with texts that these sets do not have.
`python -m glmkit.posters.simple` prints the records of `benchmarks/text_render/prompts.jsonl` that this module owns.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any

from PIL import Image

from glmkit.posters.check import check_attributes
from glmkit.posters.check_style import check_style
from glmkit.posters.grammar import Scene, caption, sample_scene
from glmkit.posters.layout_set import layout_scenes, sample_layouts
from glmkit.posters.style_set import sample_style, style_scenes
from glmkit.posters.words import sample_number_or_symbols, sample_with_apostrophe
from glmkit.sizes import parse_size

# Prompts of each split, and the size at which their images must be generated: WIDTHxHEIGHT. `simple` itself names none,
# so that it suits models of any size; its scenes are laid out for 256x256, the default size of nano.
SPLITS = {
    "simple": (128, ""),
    "simple-320x192": (32, "320x192"),
    "simple-192x320": (32, "192x320"),
    "simple-512x512": (32, "512x512"),
    "simple-signs": (56, ""),  # headlines of digits and symbols, too few to be held out
}
APOSTROPHES = 8  # of the headlines of simple-signs, the last ones
FROM_SETS = 32  # prompts of each split that asks for what a fine-tuning set teaches: retro, layouts


def simple_prompts(split: str) -> list[tuple[str, Scene, str]]:
    """Sample (prompt id, scene, caption) of every prompt of a split; no text comes twice in it."""
    count, size = SPLITS[split]
    height, width = parse_size(size or "256x256")
    prompts: list[tuple[str, Scene, str]] = []
    seen: set[str] = set()
    rng = random.Random(f"text-render {split} 1")
    while len(prompts) < count:
        headline = None
        if split == "simple-signs":
            headline = (
                sample_with_apostrophe(rng) if len(prompts) >= count - APOSTROPHES else sample_number_or_symbols(rng)
            )
        scene = sample_scene(rng, height=height, width=width, split="held-out", headline=headline)
        texts = {text.lower() for text in scene.texts}
        if texts & seen:
            continue
        seen |= texts
        prompts.append((f"{split}-{len(prompts) + 1:03d}", scene, caption(scene, rng)))
    return prompts


def retro_prompts() -> list[tuple[str, Scene, str]]:
    """Sample (prompt id, inner poster, caption) of the prompts in the style of `data/posters`; no text comes twice."""
    scenes = sample_style(random.Random("text-render retro 1"), 4 * FROM_SETS, "held-out")
    return _with_new_texts("retro", scenes, style_scenes("held-out"))


def layout_prompts() -> list[tuple[str, Scene, str]]:
    """Sample (prompt id, scene, caption) of the prompts for the layouts of `data/layouts`; no text comes twice."""
    scenes = sample_layouts(random.Random("text-render layouts 1"), 4 * FROM_SETS, "held-out")
    return _with_new_texts("layouts", scenes, layout_scenes("held-out"))


def _with_new_texts(
    split: str, scenes: Iterable[tuple[Scene, str]], known: Iterable[tuple[Scene, str]]
) -> list[tuple[str, Scene, str]]:
    """Return the first FROM_SETS of the scenes and captions whose texts are neither each other's nor known ones."""
    seen = {text.lower() for scene, _ in known for text in scene.texts}
    prompts: list[tuple[str, Scene, str]] = []
    for scene, prompt in scenes:
        texts = {text.lower() for text in scene.texts}
        if not texts & seen and len(prompts) < FROM_SETS:
            seen |= texts
            prompts.append((f"{split}-{len(prompts) + 1:03d}", scene, prompt))
    return prompts


def nano_prompts() -> dict[str, list[tuple[str, Scene, str]]]:
    """Return split -> (prompt id, scene, caption) of its prompts, for every split of this module."""
    simple = {split: simple_prompts(split) for split in SPLITS}
    return {**simple, "retro": retro_prompts(), "layouts": layout_prompts()}


@cache
def attribute_checks() -> Mapping[str, Callable[[Image.Image], dict[str, bool]]]:
    """Return prompt id -> check of the attributes that its caption names, for every prompt of this module."""
    return {
        name: partial(check_style if split == "retro" else check_attributes, scene=scene)
        for split, prompts in nano_prompts().items()
        for name, scene, _ in prompts
    }


def prompt_records() -> list[dict[str, Any]]:
    """Return the prompts of this module as records of the benchmark file."""
    records = []
    for split, prompts in nano_prompts().items():
        _, size = SPLITS.get(split, (FROM_SETS, ""))
        for name, scene, prompt in prompts:
            record = {"id": name, "split": split, "language": "en", "prompt": prompt, "texts": list(scene.texts)}
            records.append({**record, "size": size} if size else record)
    return records


if __name__ == "__main__":
    for record in prompt_records():
        print(json.dumps(record, ensure_ascii=False))
