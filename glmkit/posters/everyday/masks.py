"""Draw text masks, and label which character or shape stands where. H W rows and columns in pixels, N scenes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from glmkit.posters.everyday import captions, fonts, texts
from glmkit.posters.everyday.edits import EverydayEdit, sample_edit
from glmkit.posters.everyday.scene import ANCHORS, EverydayScene, sample_scene
from glmkit.posters.grammar import SHAPES
from glmkit.posters.masks import CELL, label_line, label_maps, label_shape, shared, with_masks
from glmkit.posters.words import Split


@cache
def alphabet() -> dict[str, int]:
    """Return the number of every character that a text can have; 1 to 6 are the shapes, 0 is nothing."""
    latin = [chr(code) for code in (*range(33, 127), *range(161, 256), ord("€"), ord("–"), ord("’"))]
    chinese = [*texts.characters(), *"！？，。：、￥％（）·"]
    return {character: number for number, character in enumerate([*latin, *chinese], start=1 + len(SHAPES))}


def text_mask(scene: EverydayScene) -> np.ndarray:
    """Draw the coverage of every pixel by letters, uint8 H W."""
    canvas = Image.new("L", (scene.width, scene.height), 0)
    draw = ImageDraw.Draw(canvas)
    for block in scene.blocks:
        font = fonts.load(block.font, block.size)
        for number, line in enumerate(block.lines):
            row = block.baseline + number * block.leading
            draw.text((block.x, row), line, fill=255, font=font, anchor=f"{block.anchor}s")
    return np.asarray(canvas)


def misspelt_masks(scenes: Sequence[EverydayScene], seed: int, workers: int = 1) -> np.ndarray:
    """Draw the masks of N scenes of one size, uint8 N H W, with texts that are spelt wrong."""

    def sample(index: int) -> tuple[None, np.ndarray]:
        rng, scene = random.Random(f"misspelt {seed}:{index}"), scenes[index]
        blocks = (
            replace(block, lines=tuple(texts.misspelt(line, rng) for line in block.lines)) for block in scene.blocks
        )
        return None, text_mask(replace(scene, blocks=tuple(blocks)))

    return with_masks(sample, shared(len(scenes), scenes[0].height, scenes[0].width), workers)[1]


def character_label_map(scene: EverydayScene) -> np.ndarray:
    """Label every cell of 8x8 pixels by the number of its character or shape: int16 H/8 W/8."""
    labels = np.zeros((scene.height // CELL, scene.width // CELL), dtype=np.int16)
    for shape in scene.shapes:
        label_shape(labels, shape.kind, shape.x, shape.y, shape.radius)
    for block in scene.blocks:
        font, height = fonts.load(block.font, block.size), fonts.capital(block.font) * block.size
        for number, line in enumerate(block.lines):
            numbers = [alphabet().get(character, 0) for character in line]
            baseline = block.baseline + number * block.leading
            label_line(labels, line, numbers, font, block.x, ANCHORS[block.anchor], baseline, height)
    return labels


def indexed_scene(seed: int, index: int, *, height: int, width: int, split: Split) -> EverydayScene:
    """Sample scene number `index` of the endless series that `seed` names."""
    return sample_scene(random.Random(f"everyday {seed}:{index}"), height=height, width=width, split=split)


def scenes_with_masks(
    count: int, seed: int, *, height: int = 256, width: int = 256, workers: int = 1, split: Split = "train"
) -> tuple[list[EverydayScene], list[str], np.ndarray]:
    """Sample the first `count` scenes of a series, their captions, and their masks uint8 N H W."""

    def sample(index: int) -> tuple[tuple[EverydayScene, str], np.ndarray]:
        scene = indexed_scene(seed, index, height=height, width=width, split=split)
        return (scene, captions.caption(scene, random.Random(f"caption {seed}:{index}"))), text_mask(scene)

    pairs, masks = with_masks(sample, shared(count, height, width), workers)
    return [scene for scene, _ in pairs], [caption for _, caption in pairs], masks


def indexed_edit(seed: int, index: int, *, height: int, width: int, split: Split) -> EverydayEdit:
    """Sample edit number `index` of the endless series that `seed` names."""
    return sample_edit(random.Random(f"everyday edit {seed}:{index}"), height=height, width=width, split=split)


def edits_with_masks(
    count: int, seed: int, *, height: int = 256, width: int = 256, workers: int = 1, split: Split = "train"
) -> tuple[list[EverydayEdit], list[str], np.ndarray]:
    """Sample the first `count` edits, captions of their conditions, and the masks of both sides, uint8 N 2 H W."""

    def sample(index: int) -> tuple[tuple[EverydayEdit, str], tuple[np.ndarray, ...]]:
        edit = indexed_edit(seed, index, height=height, width=width, split=split)
        caption = captions.caption(edit.condition, random.Random(f"edit caption {seed}:{index}"))
        return (edit, caption), (text_mask(edit.condition), text_mask(edit.target))

    pairs, masks = with_masks(sample, shared(count, 2, height, width), workers)
    return [edit for edit, _ in pairs], [caption for _, caption in pairs], masks


def character_label_maps(scenes: Sequence[EverydayScene], workers: int = 1) -> np.ndarray:
    """Label the cells of N scenes of one size: int16 N H/8 W/8."""
    return label_maps(character_label_map, scenes, np.int16, workers)
