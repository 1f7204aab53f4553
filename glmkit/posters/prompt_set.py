"""Write the prompts `data/prompts`: captions of posters of nano's world, with their texts and what else they name.

Half are of the plain grammar, half of everyday scenes, in English and in Chinese. No text of a validation prompt is in
a training prompt, and none of either is one that nano is judged by. `python -m glmkit.posters.prompt_set` writes the
prompts again; with `--count 8192` more of them, as training on a GPU wants.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit import shipped
from glmkit.files import read_jsonl, write_jsonl
from glmkit.posters import grammar
from glmkit.posters import render as simple_render
from glmkit.posters.everyday import captions, captions_zh, masks
from glmkit.posters.everyday import render as everyday_render
from glmkit.posters.everyday.check import BELOW
from glmkit.posters.everyday.colours import ALIASES, COLOURS
from glmkit.posters.everyday.scene import EverydayScene
from glmkit.posters.grammar import SHAPES

if TYPE_CHECKING:
    from PIL.Image import Image

COUNTS = {"train": 256, "validation": 32}
SIDE = 256  # pixels of the posters that the captions describe
ZH_KINDS = (captions_zh.KINDS, captions_zh.OTHER_KINDS)


@dataclass(frozen=True)
class CaptionedScene:
    """Hold one poster of nano's training world: how it is asked for, and what renders it."""

    caption: str
    texts: tuple[str, ...]
    named: Mapping[str, Any]
    render: Callable[[], Image]


def scenes(count: int, seed: int, side: int, asked: Collection[str]) -> Iterator[CaptionedScene]:
    """Yield the first so many scenes of a seed: of the plain grammar and of everyday scenes in turn.

    `side` is their height and width in pixels. No text is one of `asked`, in lower case.
    """
    number = made = 0
    while made < count:
        rng = random.Random(f"rewards {seed}:{number}")
        simple = grammar.sample_scene(rng, height=side, width=side) if number % 2 == 0 else None
        everyday = masks.indexed_scene(seed, number, height=side, width=side, split="train")
        texts = everyday.texts if simple is None else simple.texts
        number += 1
        if any(text.lower() in asked for text in texts):
            continue
        made += 1
        if simple is None:
            said = captions.caption(everyday, rng)
            yield CaptionedScene(said, texts, named(everyday, said), partial(everyday_render.render, everyday))
        else:
            yield CaptionedScene(grammar.caption(simple, rng), texts, {}, partial(simple_render.render, simple))


def named(scene: EverydayScene, caption: str) -> dict[str, Any]:
    """Return what a caption names of its scene, as `Prompt.named` has it: colours, shapes, frame and rows of texts.

    Words in quotes name nothing. Places of shapes, and in Chinese those of texts, are left open.
    """
    for text in scene.texts:
        caption = caption.replace(text, "")
    colours_said = _colours(caption)
    kinds = {*SHAPES} & {*re.findall("|".join(SHAPES), caption)}
    kinds |= {kind for kind in SHAPES if any(words[kind] in caption for words in ZH_KINDS if kind in words)}

    def said(colour: str) -> str:
        return colour if colour in colours_said else ""

    shapes = [
        {"kind": kind, "colour": said(colour), "count": len(group)}
        for (kind, colour, _), group in scene.shape_groups.items()
        if kind in kinds
    ]
    is_framed = bool(scene.frame.thickness and re.search("frame|border|framed|框", caption))
    found = {
        "background": said(scene.background),
        "text_colours": [said(scene.accent_colour if one.accent else scene.text_colour) for one in scene.blocks],
        "places": [
            BELOW if number and scene.arrangement == "stack" else _row(block.place[0], caption)
            for number, block in enumerate(scene.blocks)
        ],
        "shapes": shapes,
        "frame": {"colour": said(scene.frame.colour)} if is_framed else {},
    }
    return {name: value for name, value in found.items() if value and any(value)}


def _colours(caption: str) -> set[str]:
    """Find names of colours; the longest where one holds another."""
    names = {english: english for english in COLOURS} | {other: name for name, other in ALIASES.items()}
    names |= {chinese.removesuffix("色"): name for name, (_, chinese) in COLOURS.items() if chinese}
    longest_first = sorted(names, key=len, reverse=True)
    return {names[one] for one in re.findall("|".join(map(re.escape, longest_first)), caption.lower())}


def _row(row: str, caption: str) -> str:
    """Return a row where an English caption says it."""
    said = {"top": "top|upper", "middle": "middle|cent(er|re)", "bottom": "bottom|lower"}[row]
    return row if re.search(said, caption) else ""


def sample_sets(counts: Mapping[str, int], side: int = SIDE) -> dict[str, list[CaptionedScene]]:
    """Sample as many scenes for `train` and `validation`, of squares with this side in pixels."""
    judged = read_jsonl(shipped.ROOT / "benchmarks" / "text_render" / "prompts.jsonl")
    asked = {text.lower() for record in judged for text in record["texts"]}
    found: dict[str, list[CaptionedScene]] = {}
    for seed, name in ((1, "validation"), (0, "train")):
        found[name] = list(scenes(counts[name], seed, side, asked))
        asked |= {text.lower() for scene in found[name] for text in scene.texts}
    return found


def write_prompts(folder: Path, counts: Mapping[str, int] = COUNTS, side: int = SIDE) -> None:
    """Write `train.jsonl` and `validation.jsonl`, as `glmkit generate --prompts` takes them."""
    for name, some in sample_sets(counts, side).items():
        records = [
            {"id": f"{name}-{number:05}", "prompt": one.caption, "texts": list(one.texts), "named": one.named}
            for number, one in enumerate(some)
        ]
        write_jsonl(folder / f"{name}.jsonl", records)


def main() -> None:
    """Write the prompts as the command line says."""
    parser = argparse.ArgumentParser(description="Write the set again.")
    parser.add_argument("--out", type=Path, default=Path("data/prompts"), help="default: %(default)s")
    parser.add_argument("--count", type=int, default=COUNTS["train"], help="to learn from (default: %(default)s)")
    arguments = parser.parse_args()
    write_prompts(arguments.out, {**COUNTS, "train": arguments.count})


if __name__ == "__main__":
    main()
