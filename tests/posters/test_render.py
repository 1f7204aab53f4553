"""Masks and images: the same pixels alone, in a batch, by one worker or by several."""

from __future__ import annotations

import multiprocessing
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from glmkit.posters import fonts
from glmkit.posters.check import check_attributes
from glmkit.posters.grammar import ALIGNMENTS, COLOURS, SHAPES, Scene, Shape, sample_scene
from glmkit.posters.masks import character_label_map, character_label_maps, scenes_with_masks, text_mask
from glmkit.posters.render import batch_scenes, render, render_batch, shape_coverage


def plain(kind: str, text_colour: str = "red") -> Scene:
    shape = Shape(kind, "blue", "bottom", 64.0, 80.0, 30.0)
    scene = sample_scene(random.Random(0), height=128, width=128)
    return replace(scene, background="white", text_colour=text_colour, shape=shape)


def test_one_process_does_all_where_none_can_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, masks = scenes_with_masks(10, seed=7, height=64, width=64)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    monkeypatch.setattr(multiprocessing, "get_context", None)
    scenes, same = scenes_with_masks(10, seed=7, height=64, width=64, workers=2)
    assert scenes == expected
    assert (masks == same).all()


def test_the_number_of_workers_changes_nothing() -> None:
    alone, masks = scenes_with_masks(600, seed=7, height=64, width=64)
    shared, same = scenes_with_masks(600, seed=7, height=64, width=64, workers=2)
    assert alone == shared
    assert np.array_equal(masks, same)
    start, few = scenes_with_masks(5, seed=7, height=64, width=64)
    assert start == alone[:5]
    assert np.array_equal(few, masks[:5])
    assert scenes_with_masks(5, seed=8, height=64, width=64)[0] != start


@pytest.mark.parametrize(("height", "width"), [(128, 128), (256, 256), (320, 192), (192, 320), (512, 512)])
def test_masks_hold_the_letters_inside_their_rows(height: int, width: int) -> None:
    for seed in range(30):
        scene = sample_scene(random.Random(seed), height=height, width=width)
        mask = text_mask(scene)
        assert mask.shape == (height, width)
        assert mask.dtype == np.uint8
        assert mask.max() == 255
        rows, columns = np.nonzero(mask)
        first, last = scene.text_rows
        assert rows.min() >= first - 2
        assert rows.max() <= last + 2
        assert columns.min() > 0
        assert columns.max() < width - 1


@pytest.mark.parametrize("alignment", ["centre", *ALIGNMENTS])
@pytest.mark.parametrize("seed", range(8))
def test_label_maps_hold_the_letters(seed: int, alignment: str) -> None:
    """The ink that each letter adds to the letters before it lies in its own cells, within one cell beside it."""
    scene = replace(sample_scene(random.Random(seed), split="held-out"), alignment=alignment)
    cells = character_label_map(scene)
    assert cells.shape == (32, 32)
    assert cells.dtype == np.uint8
    for line in scene.lines:
        font = fonts.load(scene.font, line.size)
        length = font.getlength(line.text)
        left = {"left": 20, "centre": 128 - length / 2, "right": 236 - length}[alignment]
        before = np.zeros((256, 256), dtype=np.uint8)
        for count, letter in enumerate(line.text, start=1):
            canvas = Image.new("L", (256, 256), 0)
            ImageDraw.Draw(canvas).text((left, line.baseline), line.text[:count], fill=255, font=font, anchor="ls")
            new = np.asarray(canvas).astype(int) - before
            before = np.asarray(canvas)
            rows, columns = np.nonzero(new > 128)
            inner = (rows < line.baseline - 4) & (rows >= line.baseline - line.size / 2)
            named = [
                ord(letter) in cells[row // 8, max(0, column // 8 - 1) : column // 8 + 2]
                for row, column in zip(rows[inner], columns[inner], strict=True)
            ]
            assert letter in " -." or np.mean(named) > 0.9, (line.text, letter)
    letters = cells[cells > len(SHAPES)]
    assert set(letters) <= {ord(letter) for line in scene.lines for letter in line.text}


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_aligned_lines_stand_at_their_edge(alignment: str) -> None:
    """All of them, and the check sees it where they leave space on the other side."""
    for seed in range(20):
        scene = replace(sample_scene(random.Random(seed), width=320), alignment=alignment)
        for line in scene.lines:
            (columns,) = np.nonzero(text_mask(replace(scene, lines=(line,))).max(axis=0) > 128)
            free = columns[0] if alignment == "left" else 319 - columns[-1]
            assert abs(free - 0.08 * 256) < 0.1 * line.size, "but for the letters' own margins"
        if max(line.size * fonts.unit_width(scene.font, line.text) for line in scene.lines) < 200:
            assert check_attributes(render(scene), scene)["text_alignment"]
            assert not check_attributes(render(replace(scene, alignment="centre")), scene)["text_alignment"]


@pytest.mark.parametrize("kind", SHAPES)
def test_label_maps_hold_the_shape(kind: str) -> None:
    """Where a cell's pixels are mostly the shape's, the cell says so; far from the shape none does."""
    scene = next(scene for scene in map(sample_scene, map(random.Random, range(99))) if scene.text_rows[1] < 128)
    scene = replace(scene, shape=Shape(kind, "red", "bottom left", 70.0, 190.0, 12.0 if kind == "stripe" else 40.0))
    covered = shape_coverage(batch_scenes([scene]), 256, 256)[0, 0].numpy().reshape(32, 8, 32, 8).mean(axis=(1, 3))
    named = character_label_map(scene) == 1 + SHAPES.index(kind)
    assert named[covered > 0.8].all()
    assert not named[:17].any()
    assert named.sum() < 100
    if kind != "stripe":
        assert not named[:, 16:].any()


def test_many_label_maps_are_those_of_their_scenes() -> None:
    scenes, _ = scenes_with_masks(300, seed=4, height=64, width=96)
    labels = character_label_maps(scenes, workers=2)
    assert labels.shape == (300, 8, 12)
    assert np.array_equal(labels, [character_label_map(scene) for scene in scenes])


def test_a_batch_is_its_images() -> None:
    scenes, masks = scenes_with_masks(12, seed=3, height=96, width=160)
    batch = render_batch(batch_scenes(scenes), torch.from_numpy(masks))
    assert batch.shape == (12, 3, 96, 160)
    assert batch.min() >= -1
    assert batch.max() <= 1
    for scene, pixels in zip(scenes, batch, strict=True):
        alone = np.asarray(render(scene), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
        assert np.abs(alone - pixels.numpy()).max() <= 1 / 255 + 1e-6


def test_background_shape_and_letters_have_exactly_their_colours() -> None:
    scene = plain("circle", text_colour="black")
    pixels = np.asarray(render(scene))
    assert tuple(pixels[0, 0]) == COLOURS["white"]
    assert tuple(pixels[80, 64]) in (COLOURS["blue"], COLOURS["black"])
    assert {tuple(pixel) for pixel in pixels[text_mask(scene) == 255]} == {COLOURS["black"]}


def corners(kind: str) -> list[tuple[float, float]]:
    """The corners of a shape of radius 1, x right and y down, written out independently of the renderer."""
    count, inner = {"triangle": (3, None), "hexagon": (6, None), "star": (5, 0.42), "burst": (12, 0.75)}[kind]
    points = []
    for step in range(2 * count):
        length = 1.0 if step % 2 == 0 else inner
        if length is not None:
            angle = np.pi * step / count
            points.append((length * np.sin(angle), -length * np.cos(angle)))
    return points


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_match_filled_polygons(kind: str) -> None:
    scene, scale = plain(kind), 8
    expected = Image.new("L", (128 * scale, 128 * scale), 0)
    draw, (x, y, radius) = ImageDraw.Draw(expected), (64 * scale, 80 * scale, 30 * scale)
    if kind == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    elif kind == "stripe":
        draw.rectangle((0, y - radius, 128 * scale, y + radius - 1), fill=255)
    else:
        draw.polygon([(x + radius * right, y + radius * down) for right, down in corners(kind)], fill=255)
    smooth = np.asarray(expected.resize((128, 128), Image.Resampling.BOX), dtype=np.float32) / 255
    covered = shape_coverage(batch_scenes([scene]), 128, 128)[0, 0].numpy()
    assert np.abs(covered - smooth).mean() < 0.004
    assert ((covered > 0.5) != (smooth > 0.5)).mean() < 0.004


def test_no_shape_covers_nothing() -> None:
    assert shape_coverage(batch_scenes([plain("none")]), 128, 128).max() == 0


def test_rendering_is_fast_enough_to_train_on() -> None:
    scenes, _ = scenes_with_masks(1024, seed=1, height=32, width=32)
    batch_scenes(scenes)
    start = time.perf_counter()
    batch_scenes(scenes)
    assert time.perf_counter() - start < 0.2, "1 to 2 ms when the machine is idle"
    start = time.perf_counter()
    scenes_with_masks(200, seed=2)
    assert (time.perf_counter() - start) / 200 < 0.01, "0.5 ms when the machine is idle"


def test_every_typeface_travels_with_its_licence() -> None:
    folder = Path(fonts.__file__).parent / "fonts"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    files = sorted(path.name for path in folder.glob("*.woff"))
    assert files == sorted(face.file for face in fonts.TYPEFACES.values())
    for name in files:
        row = next(line for line in readme.splitlines() if name in line)
        assert (folder / row.split("`")[1]).stat().st_size > 1000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
