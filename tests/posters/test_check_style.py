"""The checks of framed posters agree with the truth, and notice each single change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from glmkit.posters.check_style import style_checks
from glmkit.posters.grammar import Scene
from glmkit.posters.style_set import style_poster, style_scenes, unframed_poster

SCENES = [scene for scene, _ in style_scenes("held-out")]


def wrong(image: Image.Image, scene: Scene) -> set[str]:
    return {name for name, right in style_checks(image, scene).items() if not right}


@pytest.mark.parametrize("side", [256, 384])
def test_the_set_passes(side: int) -> None:
    for scene in SCENES:
        assert not wrong(style_poster(scene).resize((side, side), Image.Resampling.LANCZOS), scene)


def test_a_frame_that_is_missing_or_of_another_colour() -> None:
    scene = next(scene for scene in SCENES if scene.shape.kind not in ("none", "stripe"))
    assert wrong(unframed_poster(scene), scene) == {"frame"}
    other = next(one for one in SCENES if one.background == scene.background and one.text_colour != scene.text_colour)
    framed = style_poster(other)
    framed.paste(style_poster(scene).crop((20, 20, 236, 236)), (20, 20))
    assert wrong(framed, scene) == {"frame"}


def test_what_the_frame_holds_is_checked_by_the_colours_of_the_style() -> None:
    scene = next(scene for scene in SCENES if scene.shape.kind not in ("none", "stripe"))
    assert wrong(style_poster(scene), replace(scene, position="")) == {"text_position"}
    assert wrong(style_poster(scene), replace(scene, shape=replace(scene.shape, colour="olive"))) == {"shape"}
    assert "background" in wrong(style_poster(scene), replace(scene, background="olive"))
