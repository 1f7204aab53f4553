"""The fine-tuning set `data/layouts`: two layouts that are known by a name alone.

Words, typefaces, colours, shapes and places are those of the grammar, but captions say `in the masthead layout` instead
of where text and shape stand, so that what a name means is all there is to learn: the autoregressive model's part.
Beside them lie ordinary posters of the grammar, of which a model can be reminded while it learns.
`python -m glmkit.posters.layout_set` draws the set again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from glmkit.posters.grammar import Scene, caption
from glmkit.posters.render import render
from glmkit.posters.sets import FOLDERS, draw_again, listed_scene, write_images
from glmkit.posters.words import Split

COUNTS: dict[Split, int] = {"train": 96, "held-out": 16}
ORDINARY = 48
# Position of the text, place of the shape.
LAYOUTS = {"masthead": ("top", "bottom right"), "footer": ("bottom", "top left")}


def layout_scenes(split: Split) -> Iterator[tuple[Scene, str]]:
    """The poster and the caption of every image of a split, 256x256 pixels."""
    return draw_layouts(random.Random(f"layouts 2 {split}"), COUNTS[split], split)


def draw_layouts(rng: random.Random, count: int, split: Split) -> Iterator[tuple[Scene, str]]:
    """The poster and the caption of `count` images; the layouts take turns."""
    names = tuple(LAYOUTS)
    for index in range(count):
        name = names[index % len(names)]
        scene = listed_scene(rng, split, partial(_laid_out, name))
        yield scene, caption(scene, rng, layout=name)


def _laid_out(name: str, scene: Scene) -> bool:
    """Whether text and shape stand where the layout of this name has them."""
    return (scene.position, scene.shape.place) == LAYOUTS[name]


def ordinary_scenes() -> Iterator[tuple[Scene, str]]:
    """The poster and the caption of every ordinary image, which names places and no layout."""
    rng = random.Random("layouts ordinary 1")
    for _ in range(ORDINARY):
        scene = listed_scene(rng, "train")
        yield scene, caption(scene, rng)


def write_set(folder: Path) -> None:
    """Write `train/`, `validation/` and `ordinary/`, each with numbered PNG files and a metadata.jsonl."""
    for split, name in FOLDERS.items():
        write_images(folder / name, "layout", ((render(scene), text) for scene, text in layout_scenes(split)))
    write_images(folder / "ordinary", "poster", ((render(scene), text) for scene, text in ordinary_scenes()))


if __name__ == "__main__":
    draw_again(write_set, "data/layouts")
