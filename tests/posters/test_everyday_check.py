"""What a prompt names is found on true images of it, and each fault costs what it should and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scripts import load_script

from glmkit.posters.everyday.check import Named, NamedShape, check_attributes, check_places, is_colour, stands_at
from glmkit.posters.everyday.colours import COLOURS, lab
from glmkit.posters.everyday.render import render
from glmkit.posters.everyday.scene import Border, Box, EverydayScene, stand_in_row
from glmkit.records import Prompt

control = load_script("everyday_control")
PROMPTS: dict[str, Prompt] = {prompt.prompt: prompt for prompt in control.everyday_prompts()}
WITH_ALL = Prompt(
    "all",
    "four texts, two groups of shapes and a frame",
    ("Vera Lund", "for a fair town", "5 June", "9 am"),
    named={
        "background": "ivory",
        "text_colours": ["navy", "crimson", "navy", "navy"],
        "places": ["top", "below", "bottom left", "bottom right"],
        "shapes": [{"kind": "star", "colour": "gold", "place": "middle left", "count": 2}],
        "frame": {"colour": "teal", "thickness": "thin"},
    },
)


def boxes_of(scene: EverydayScene) -> list[Box]:
    return [block.box for block in scene.blocks]


def failed(scene: EverydayScene, named: Named, boxes: Sequence[Box | None] | None = None) -> list[str]:
    """The properties and places that the image of a scene does not have."""
    boxes = boxes_of(scene) if boxes is None else boxes
    checked = check_attributes(np.asarray(render(scene)), named, boxes)
    checked += [("place", right) for right in check_places(named, boxes, (scene.width, scene.height))]
    return [name for name, right in checked if not right]


@pytest.mark.parametrize("prompt", [*list(PROMPTS.values())[::18], WITH_ALL], ids=lambda prompt: prompt.id)
def test_true_images_have_what_their_prompts_name(prompt: Prompt) -> None:
    scene = control.scene_of(prompt)
    if scene is None:
        assert prompt.split == "everyday-zh", "only Chinese texts need characters that no typeface has"
        return
    assert failed(scene, Named.from_dict(prompt.named)) == []


def changed(scene: EverydayScene, fault: str) -> EverydayScene:
    """The scene with one fault."""
    shapes = stand_in_row("star", "gold", 2, ("middle", "left"), 18, 256, 256)
    match fault:
        case "background":
            return replace(scene, background="light green")
        case "text colour":
            return replace(scene, accent_colour=scene.text_colour)
        case "all text colours":
            return replace(scene, text_colour="forest green")
        case "no frame":
            return replace(scene, frame=Border())
        case "frame colour":
            return replace(scene, frame=replace(scene.frame, colour="orange"))
        case "frame thickness":
            return replace(scene, frame=replace(scene.frame, thickness=8))
        case "no shape":
            return replace(scene, shapes=())
        case "one shape":
            return replace(scene, shapes=tuple(shapes[:1]))
        case "another shape":
            return replace(scene, shapes=tuple(replace(shape, kind="circle") for shape in shapes))
        case "shape colour":
            return replace(scene, shapes=tuple(replace(shape, colour="blue") for shape in shapes))
        case "shape place":
            moved = stand_in_row("star", "gold", 2, ("middle", "right"), 18, 256, 256)
            return replace(scene, shapes=tuple(moved))
    raise ValueError(fault)


@pytest.mark.parametrize(
    ("fault", "costs"),
    [
        ("background", ["background"]),
        ("text colour", ["text_colour"]),
        ("all text colours", ["text_colour"] * 3),
        ("no frame", ["frame"]),
        ("frame colour", ["frame"]),
        ("frame thickness", ["frame"]),
        ("no shape", ["shape", "shape_place"]),
        ("one shape", ["shape"]),
        ("another shape", ["shape", "shape_place"]),
        ("shape colour", ["shape", "shape_place"]),
        ("shape place", ["shape_place"]),
    ],
)
def test_a_fault_costs_what_it_changes(fault: str, costs: list[str]) -> None:
    scene = control.scene_of(WITH_ALL)
    assert failed(changed(scene, fault), Named.from_dict(WITH_ALL.named)) == costs


def test_texts_at_the_places_of_others_cost_their_places() -> None:
    scene, named = control.scene_of(WITH_ALL), Named.from_dict(WITH_ALL.named)
    title, below, left, right = boxes_of(scene)
    size = (scene.width, scene.height)
    assert check_places(named, [title, below, left, right], size) == [True] * 4
    assert check_places(named, [below, title, left, right], size) == [True, False, True, True]
    assert check_places(named, [title, below, right, left], size) == [True, True, False, False]
    assert check_places(named, [left, below, title, right], size) == [False, False, False, True]
    assert check_places(named, [title, None, left, None], size) == [True, False, True, False]


def test_a_text_in_the_middle_may_have_others_below_it() -> None:
    named = Named(places=("middle", "below", ""))
    assert check_places(named, [(60, 60, 200, 110), (60, 140, 200, 190), None], (256, 256)) == [True, True]
    assert check_places(named, [(60, 20, 200, 70), (60, 90, 200, 120), None], (256, 256)) == [False, True]


@pytest.mark.parametrize(("place", "x", "y"), [
    ("top left", 20, 20), ("top", 78, 20), ("top right", 136, 20), ("left", 20, 103), ("middle centre", 78, 103),
    ("right middle", 136, 103), ("bottom left", 20, 186), ("bottom centre", 78, 186), ("bottom right", 136, 186),
])  # fmt: skip
def test_nine_places(place: str, x: int, y: int) -> None:
    box = (x, y, x + 100, y + 50)
    assert stands_at(box, place, (256, 256))
    opposite = {"top": "bottom", "bottom": "top", "left": "right", "right": "left", "middle": "top", "centre": "left"}
    assert not any(stands_at(box, opposite[word], (256, 256)) for word in place.split())


def test_no_shapes_means_none() -> None:
    scene, named = control.scene_of(WITH_ALL), Named(shapes=())
    assert failed(scene, named) == ["shape"]
    assert failed(replace(scene, shapes=()), named) == []


def test_shapes_of_any_number_and_colour() -> None:
    scene = control.scene_of(WITH_ALL)
    assert failed(scene, Named(shapes=(NamedShape("star").to_dict(),))) == []
    assert failed(scene, Named(shapes=(NamedShape("burst").to_dict(),))) == ["shape"]


def test_a_text_that_was_not_found_is_looked_for_everywhere() -> None:
    scene = replace(control.scene_of(WITH_ALL), accent_colour="navy")
    right, wrong = Named(text_colours=("navy",)), Named(text_colours=("orange",))
    assert failed(scene, right, [None]) == []
    assert failed(scene, wrong, [None]) == ["text_colour"]
    assert failed(replace(scene, blocks=()), right, [None]) == ["text_colour"]


@pytest.mark.parametrize(("rgb", "expected"), [
    ((255, 0, 0), (53.24, 80.09, 67.20)), ((0, 255, 0), (87.73, -86.18, 83.18)), ((0, 0, 255), (32.30, 79.19, -107.86)),
    ((128, 128, 128), (53.59, 0, 0)), ((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)),
])  # fmt: skip
def test_published_cielab_values(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    """Those of B. Lindbloom's calculator (sRGB, D65)."""
    assert lab(np.array(rgb)) == pytest.approx(expected, abs=0.03)


def test_a_colour_has_its_name_and_no_clearly_different_one() -> None:
    values = {name: np.array(rgb) for name, (rgb, _) in COLOURS.items()}
    assert all(is_colour(rgb, name) for name, rgb in values.items())
    wrong = {(name, other) for name, rgb in values.items() for other in COLOURS if is_colour(rgb, other)}
    for pair in (("dark red", "red"), ("black", "navy"), ("white", "yellow"), ("blue", "purple"), ("grey", "silver"),
                 ("green", "dark green"), ("light blue", "blue"), ("brown", "orange"), ("beige", "white")):  # fmt: skip
        assert pair not in wrong
        assert pair[::-1] not in wrong
    for pair in (("forest green", "green"), ("sky blue", "light blue"), ("cream", "ivory"), ("navy", "midnight blue")):
        assert pair in wrong
    for pure, name in (((255, 0, 0), "red"), ((0, 128, 0), "green"), ((255, 255, 0), "yellow"), ((0, 0, 0), "black")):
        assert is_colour(np.array(pure), name)
