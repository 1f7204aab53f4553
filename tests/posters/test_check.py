"""The checks agree with the truth of rendered posters, before and after nano's VAE, and notice each single change."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glmkit.models.hybrid import HybridModel
from glmkit.models.vae.model import Vae
from glmkit.posters.check import GRAMMAR, check_attributes, nearest_colours, read_attributes
from glmkit.posters.grammar import (
    COLOURS,
    GAP,
    MARGIN,
    MIN_SHAPE_CONTRAST,
    POSITIONS,
    SHAPES,
    Scene,
    Shape,
    contrast,
    readable_on,
    sample_scene,
)
from glmkit.posters.patches import MIN_OVERLAP
from glmkit.posters.render import render, to_image

ROOT = Path(__file__).parents[2]
ATTRIBUTES = ("background", "text_colour", "text_position", "shape", "shape_position")


def scenes(count: int, *, height: int = 256, width: int = 256, seed: str = "check") -> list[Scene]:
    return [sample_scene(random.Random(f"{seed} {index}"), height=height, width=width) for index in range(count)]


def share_passed(pairs: Iterator[tuple[Image.Image, Scene]]) -> dict[str, float]:
    """The share of the images that pass each check on the scene beside them."""
    passed, checked = Counter[str](), Counter[str]()
    for image, scene in pairs:
        result = check_attributes(image, scene)
        checked.update(result.keys())
        passed.update(name for name, right in result.items() if right)
    assert set(checked) == set(ATTRIBUTES)
    return {name: passed[name] / checked[name] for name in ATTRIBUTES}


@pytest.mark.parametrize(("height", "width", "count"), [(256, 256, 40), (192, 320, 20), (320, 192, 20), (512, 512, 6)])
def test_posters_pass_on_their_own_scene(height: int, width: int, count: int) -> None:
    pairs = ((render(scene), scene) for scene in scenes(count, height=height, width=width))
    assert min(share_passed(pairs).values()) >= 0.995


def through_vae(vae: Vae, scene: Scene) -> Image.Image:
    pixels = torch.from_numpy(np.array(render(scene))).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        return to_image(vae.decode(vae.encode(pixels))[0])


def test_posters_pass_after_nanos_vae() -> None:
    vae = HybridModel.load(str(ROOT / "data" / "nano"), components=("vae",)).vae
    posters = scenes(10)
    assert min(share_passed((through_vae(vae, scene), scene) for scene in posters).values()) >= 1 - 1 / len(posters)


def other(rng: random.Random, choices: tuple[str, ...], but: str) -> str:
    return rng.choice([name for name in choices if name != but])


def other_background(scene: Scene, rng: random.Random) -> Scene | None:
    names = {name for name in readable_on(scene.text_colour) if name != scene.background}
    if scene.shape.kind != "none":
        names &= {
            name for name in COLOURS if contrast(COLOURS[name], COLOURS[scene.shape.colour]) >= MIN_SHAPE_CONTRAST
        }
    return replace(scene, background=rng.choice(sorted(names))) if names else None


def other_text_colour(scene: Scene, rng: random.Random) -> Scene | None:
    choices = readable_on(scene.background)
    return replace(scene, text_colour=other(rng, choices, scene.text_colour)) if len(choices) > 1 else None


def other_text_position(scene: Scene, rng: random.Random) -> Scene | None:
    """The same lines at another of the three heights, where they do not touch the shape."""
    position, (first, last), edge = other(rng, POSITIONS, scene.position), scene.text_rows, MARGIN * scene.height
    space = scene.height - (last - first)
    down = round({"top": edge, "middle": space / 2, "bottom": space - edge}[position] - first)
    lines = tuple(replace(line, baseline=line.baseline + down) for line in scene.lines)
    moved, shape = replace(scene, position=position, lines=lines), scene.shape
    first, last = moved.text_rows
    apart = shape.y + shape.radius + GAP * 256 <= first or last + GAP * 256 <= shape.y - shape.radius
    return moved if shape.kind == "none" or apart else None


def other_kind(scene: Scene, rng: random.Random) -> Scene | None:
    """Another kind at the same position; a stripe takes up all columns, so it is another kind only in the centre."""
    if scene.shape.kind == "none":
        return None
    kinds = tuple(kind for kind in SHAPES if kind != "stripe" or " " not in scene.shape.position)
    kind, radius = other(rng, kinds, scene.shape.kind), scene.shape.radius * (3 if scene.shape.kind == "stripe" else 1)
    return replace(scene, shape=replace(scene.shape, kind=kind, radius=radius / 3 if kind == "stripe" else radius))


def other_shape_colour(scene: Scene, rng: random.Random) -> Scene | None:
    if scene.shape.kind == "none":
        return None
    colour = other(rng, readable_on(scene.background, MIN_SHAPE_CONTRAST), scene.shape.colour)
    return replace(scene, shape=replace(scene.shape, colour=colour))


def no_shape(scene: Scene, _: random.Random) -> Scene | None:
    return None if scene.shape.kind == "none" else replace(scene, shape=Shape())


def other_column(scene: Scene, rng: random.Random) -> Scene | None:
    """The shape in another column of the same row."""
    row, _, column = scene.shape.position.partition(" ")
    if scene.shape.kind in ("none", "stripe"):
        return None
    column, edge = other(rng, ("left", "", "right"), column), MARGIN * 256 + scene.shape.radius
    x = {"left": edge, "": scene.width / 2, "right": scene.width - edge}[column]
    return replace(scene, shape=replace(scene.shape, x=x, position=f"{row} {column}".strip()))


def other_row(scene: Scene, _: random.Random) -> Scene | None:
    """The shape on the other side of a text in the middle."""
    if scene.shape.kind == "none" or scene.position != "middle":
        return None
    row, _space, column = scene.shape.position.partition(" ")
    position = f"{'bottom' if row == 'top' else 'top'} {column}".strip()
    return replace(scene, shape=replace(scene.shape, y=scene.height - scene.shape.y, position=position))


CHANGES: dict[Callable[[Scene, random.Random], Scene | None], str] = {
    other_background: "background",
    other_text_colour: "text_colour",
    other_text_position: "text_position",
    other_kind: "shape",
    other_shape_colour: "shape",
    no_shape: "shape",
    other_column: "shape_position",
    other_row: "shape_position",
}


def noticed(change: Callable[[Scene, random.Random], Scene | None], count: int) -> tuple[float, float]:
    """Change one attribute of every poster; return the shares that fail its check and that pass all others."""
    rng, failed, others = random.Random(change.__name__), list[bool](), list[bool]()
    for scene in scenes(count, seed=change.__name__):
        changed = change(scene, rng)
        if changed is None:
            continue
        passed = check_attributes(render(changed), scene)
        failed.append(not passed[CHANGES[change]])
        others.append(all(right for name, right in passed.items() if name != CHANGES[change]))
    return sum(failed) / len(failed), sum(others) / len(others)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_poster_that_differs_in_one_attribute_fails_exactly_its_check(
    change: Callable[[Scene, random.Random], Scene | None],
) -> None:
    failed, others = noticed(change, 25)
    assert failed >= 0.98
    if change is not no_shape:  # without a shape its position is wrong, too
        assert others >= 0.98


def test_a_shape_that_the_scene_does_not_have_fails() -> None:
    shaped = next(scene for scene in scenes(20) if scene.shape.kind != "none")
    bare = replace(shaped, shape=Shape())
    assert check_attributes(render(bare), bare)["shape"]
    assert not check_attributes(render(shaped), bare)["shape"]


@pytest.mark.parametrize("kind", SHAPES)
def test_frayed_shapes_keep_their_kind(kind: str) -> None:
    """A third of the pixels within two of the outline turned over."""
    shape = Shape(kind, "blue", "bottom", 128.0, 190.0, 12.0 if kind == "stripe" else 36.0)
    scene = replace(
        next(scene for scene in scenes(20) if scene.position == "top"), background="white", text_colour="red"
    )
    inner, outer = (
        np.asarray(render(replace(scene, shape=replace(shape, radius=shape.radius + step)))) for step in (-2, 2)
    )
    frayed = np.random.default_rng(0).random(inner.shape[:2]) < 1 / 3
    seen = read_attributes(Image.fromarray(np.where(frayed[:, :, None], inner, outer)))
    assert (seen.shape, seen.shape_colour, seen.shape_position) == (kind, "blue", "bottom")


def test_letters_are_no_shapes() -> None:
    """No letter, digit or symbol of any typeface comes as near to a shape as MIN_OVERLAP demands."""
    for index, scene in enumerate(scenes(40, seed="letters")):
        assert read_attributes(render(replace(scene, shape=Shape()))).shape == "none", (index, scene.texts, MIN_OVERLAP)


def test_an_empty_image_shows_its_background_only() -> None:
    seen = read_attributes(Image.new("RGB", (96, 64), COLOURS["teal"]))
    assert (seen.background, seen.text_colour, seen.text_position, seen.shape) == ("teal", "", "", "none")


def test_noise_does_not_change_a_colour() -> None:
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        noisy = np.clip(np.array(colour) + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
        assert (nearest_colours(Image.fromarray(noisy)) == GRAMMAR.names.index(name)).mean() > 0.95, name
        assert read_attributes(Image.fromarray(noisy)).background == name


def test_large_images_take_little_memory() -> None:
    """The colours of 1024x1024 in under 20 bytes a pixel; the distances to all of them would take many times that."""
    levels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    tracemalloc.start()
    found = nearest_colours(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20
    distances = ((levels[:8, :, None].astype(float) - GRAMMAR.values) ** 2).sum(-1)
    assert (found[:8] == distances.argmin(-1)).mean() > 0.9999, "float32 may choose the other of two equal ones"
