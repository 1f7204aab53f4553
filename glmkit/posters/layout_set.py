"""Write the fine-tuning set `data/layouts`: two layouts that have only a name.

Words, typefaces, colours, shapes and positions are those of the grammar, but captions say `in the masthead layout`
instead of where text and shape stand. What a name means is all there is to learn, and it is the autoregressive model
that learns it. Beside them lie ordinary posters of the grammar, as regularization images (prior preservation).
`python -m glmkit.posters.layout_set` writes the set again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from glmkit.posters.grammar import Scene, caption
from glmkit.posters.render import render
from glmkit.posters.sets import FOLDERS, sample_listed_scene, write_from_command_line, write_images
from glmkit.posters.words import Split

COUNTS: dict[Split, int] = {"train": 96, "held-out": 16}
REGULARIZATION_COUNT = 48
# Position of the text, position of the shape.
LAYOUTS = {"masthead": ("top", "bottom right"), "footer": ("bottom", "top left")}


def layout_scenes(split: Split) -> Iterator[tuple[Scene, str]]:
    """Sample poster and caption of every image of a split, 256x256 pixels."""
    return sample_layouts(random.Random(f"layouts 2 {split}"), COUNTS[split], split)


def sample_layouts(rng: random.Random, count: int, split: Split) -> Iterator[tuple[Scene, str]]:
    """Sample poster and caption of `count` images; the layouts take turns."""
    names = tuple(LAYOUTS)
    for index in range(count):
        name = names[index % len(names)]
        scene = sample_listed_scene(rng, split, partial(_has_layout, name))
        yield scene, caption(scene, rng, layout=name)


def _has_layout(name: str, scene: Scene) -> bool:
    """Tell whether text and shape stand where the layout of this name has them."""
    return (scene.position, scene.shape.position) == LAYOUTS[name]


def regularization_scenes() -> Iterator[tuple[Scene, str]]:
    """Sample poster and caption of every regularization image; captions name positions and no layout."""
    rng = random.Random("layouts ordinary 1")
    for _ in range(REGULARIZATION_COUNT):
        scene = sample_listed_scene(rng, "train")
        yield scene, caption(scene, rng)


def write_set(folder: Path) -> None:
    """Write `train/`, `validation/` and `regularization/`, each with numbered PNG files and a metadata.jsonl."""
    for split, name in FOLDERS.items():
        write_images(folder / name, "layout", ((render(scene), text) for scene, text in layout_scenes(split)))
    write_images(
        folder / "regularization", "poster", ((render(scene), text) for scene, text in regularization_scenes())
    )


if __name__ == "__main__":
    write_from_command_line(write_set, "data/layouts")
