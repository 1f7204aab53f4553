"""The checks agree with the truth of rendered posters, before and after nano's VAE, and notice each single change."""

from __future__ import annotations

import random
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
from glmkit.posters.check import LEAST_OVERLAP, NAMES, checks, look, named_colours
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
    draw_scene,
    readable_on,
)
from glmkit.posters.render import render, to_image

ROOT = Path(__file__).parents[2]
PROPERTIES = ("background", "text_colour", "text_position", "shape", "shape_position")


def scenes(count: int, *, height: int = 256, width: int = 256, seed: str = "check") -> list[Scene]:
    return [draw_scene(random.Random(f"{seed} {index}"), height=height, width=width) for index in range(count)]


def share_passed(pairs: Iterator[tuple[Image.Image, Scene]]) -> dict[str, float]:
    """The share of the images that pass each check on the scene beside them."""
    passed, asked = Counter[str](), Counter[str]()
    for image, scene in pairs:
        found = checks(image, scene)
        asked.update(found.keys())
        passed.update(name for name, right in found.items() if right)
    assert set(asked) == set(PROPERTIES)
    return {name: passed[name] / asked[name] for name in PROPERTIES}


@pytest.mark.parametrize(("height", "width", "count"), [(256, 256, 40), (192, 320, 20), (320, 192, 20), (512, 512, 6)])
def test_posters_pass_on_their_own_scene(height: int, width: int, count: int) -> None:
    own = ((render(scene), scene) for scene in scenes(count, height=height, width=width))
    assert min(share_passed(own).values()) >= 0.995


def through_vae(vae: Vae, scene: Scene) -> Image.Image:
    pixels = torch.from_numpy(np.array(render(scene))).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        return to_image(vae.decode(vae.encode(pixels))[0])


def test_posters_pass_after_nanos_vae() -> None:
    vae = HybridModel.load(str(ROOT / "data" / "nano"), components=("vae",)).vae
    asked = scenes(10)
    assert min(share_passed((through_vae(vae, scene), scene) for scene in asked).values()) >= 1 - 1 / len(asked)


def other(rng: random.Random, choices: tuple[str, ...], but: str) -> str:
    return rng.choice([name for name in choices if name != but])


def other_background(scene: Scene, rng: random.Random) -> Scene | None:
    kept = {name for name in readable_on(scene.text_colour) if name != scene.background}
    if scene.shape.kind != "none":
        kept &= {name for name in COLOURS if contrast(COLOURS[name], COLOURS[scene.shape.colour]) >= MIN_SHAPE_CONTRAST}
    return replace(scene, background=rng.choice(sorted(kept))) if kept else None


def other_text_colour(scene: Scene, rng: random.Random) -> Scene | None:
    choices = readable_on(scene.background)
    return replace(scene, text_colour=other(rng, choices, scene.text_colour)) if len(choices) > 1 else None


def other_text_position(scene: Scene, rng: random.Random) -> Scene | None:
    """The same lines at another of the three heights, where they do not touch the shape."""
    position, (first, last), edge = other(rng, POSITIONS, scene.position), scene.text_rows, MARGIN * scene.height
    room = scene.height - (last - first)
    down = round({"top": edge, "middle": room / 2, "bottom": room - edge}[position] - first)
    lines = tuple(replace(line, baseline=line.baseline + down) for line in scene.lines)
    moved, shape = replace(scene, position=position, lines=lines), scene.shape
    first, last = moved.text_rows
    apart = shape.y + shape.radius + GAP * 256 <= first or last + GAP * 256 <= shape.y - shape.radius
    return moved if shape.kind == "none" or apart else None


def other_kind(scene: Scene, rng: random.Random) -> Scene | None:
    """Another kind at the same place; a stripe takes up all columns, so it is another kind only in the centre."""
    if scene.shape.kind == "none":
        return None
    kinds = tuple(kind for kind in SHAPES if kind != "stripe" or " " not in scene.shape.place)
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
    row, _, side = scene.shape.place.partition(" ")
    if scene.shape.kind in ("none", "stripe"):
        return None
    side, edge = other(rng, ("left", "", "right"), side), MARGIN * 256 + scene.shape.radius
    x = {"left": edge, "": scene.width / 2, "right": scene.width - edge}[side]
    return replace(scene, shape=replace(scene.shape, x=x, place=f"{row} {side}".strip()))


def other_row(scene: Scene, rng: random.Random) -> Scene | None:
    """The shape on the other side of a text in the middle."""
    if scene.shape.kind == "none" or scene.position != "middle":
        return None
    row, _, side = scene.shape.place.partition(" ")
    place = f"{'bottom' if row == 'top' else 'top'} {side}".strip()
    return replace(scene, shape=replace(scene.shape, y=scene.height - scene.shape.y, place=place))


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
    """Of the posters that differ from their scene in one property: the share that fails its check, and the share that
    passes all others."""
    rng, failed, others = random.Random(change.__name__), list[bool](), list[bool]()
    for scene in scenes(count, seed=change.__name__):
        changed = change(scene, rng)
        if changed is None:
            continue
        found = checks(render(changed), scene)
        failed.append(not found[CHANGES[change]])
        others.append(all(right for name, right in found.items() if name != CHANGES[change]))
    return sum(failed) / len(failed), sum(others) / len(others)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_poster_that_differs_in_one_property_fails_exactly_its_check(
    change: Callable[[Scene, random.Random], Scene | None],
) -> None:
    failed, others = noticed(change, 25)
    assert failed >= 0.98
    if change is not no_shape:  # without a shape its place is wrong, too
        assert others >= 0.98


def test_a_shape_that_nobody_asked_for_fails() -> None:
    drawn = next(scene for scene in scenes(20) if scene.shape.kind != "none")
    asked = replace(drawn, shape=Shape())
    assert checks(render(asked), asked)["shape"] and not checks(render(drawn), asked)["shape"]


@pytest.mark.parametrize("kind", SHAPES)
def test_frayed_shapes_keep_their_kind(kind: str) -> None:
    """A third of the pixels within two of the outline turned over."""
    shape = Shape(kind, "blue", "bottom", 128.0, 190.0, 12.0 if kind == "stripe" else 36.0)
    scene = replace(next(one for one in scenes(20) if one.position == "top"), background="white", text_colour="red")
    inner, outer = (
        np.asarray(render(replace(scene, shape=replace(shape, radius=shape.radius + step)))) for step in (-2, 2)
    )
    frayed = np.random.default_rng(0).random(inner.shape[:2]) < 1 / 3
    seen = look(Image.fromarray(np.where(frayed[:, :, None], inner, outer)))
    assert (seen.shape, seen.shape_colour, seen.shape_position) == (kind, "blue", "bottom")


def test_letters_are_no_shapes() -> None:
    """No letter, digit or sign of any typeface comes as near to a shape as LEAST_OVERLAP demands."""
    for index, scene in enumerate(scenes(40, seed="letters")):
        assert look(render(replace(scene, shape=Shape()))).shape == "none", (index, scene.texts, LEAST_OVERLAP)


def test_an_empty_image_shows_its_background_only() -> None:
    seen = look(Image.new("RGB", (96, 64), COLOURS["teal"]))
    assert (seen.background, seen.text_colour, seen.text_position, seen.shape) == ("teal", "", "", "none")


def test_noise_does_not_change_a_colour() -> None:
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        noisy = np.clip(np.array(colour) + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
        assert (named_colours(Image.fromarray(noisy)) == NAMES.index(name)).mean() > 0.95, name
        assert look(Image.fromarray(noisy)).background == name
