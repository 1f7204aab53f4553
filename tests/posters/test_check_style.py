"""The checks of framed posters agree with the truth, and notice each single change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from glmkit.posters.check_style import check_style
from glmkit.posters.grammar import Scene
from glmkit.posters.style_set import render_framed, render_unframed, style_scenes

SCENES = [scene for scene, _ in style_scenes("held-out")]


def wrong(image: Image.Image, scene: Scene) -> set[str]:
    return {name for name, right in check_style(image, scene).items() if not right}


@pytest.mark.parametrize("length", [256, 384])
def test_the_set_passes(length: int) -> None:
    for scene in SCENES:
        assert not wrong(render_framed(scene).resize((length, length), Image.Resampling.LANCZOS), scene)


def test_a_frame_that_is_missing_or_of_another_colour() -> None:
    scene = next(scene for scene in SCENES if scene.shape.kind not in ("none", "stripe"))
    assert wrong(render_unframed(scene), scene) == {"frame"}
    other = next(s for s in SCENES if s.background == scene.background and s.text_colour != scene.text_colour)
    framed = render_framed(other)
    framed.paste(render_framed(scene).crop((20, 20, 236, 236)), (20, 20))
    assert wrong(framed, scene) == {"frame"}


def test_what_the_frame_holds_is_checked_by_the_colours_of_the_style() -> None:
    scene = next(scene for scene in SCENES if scene.shape.kind not in ("none", "stripe"))
    assert wrong(render_framed(scene), replace(scene, position="")) == {"text_position"}
    assert wrong(render_framed(scene), replace(scene, shape=replace(scene.shape, colour="olive"))) == {"shape"}
    assert "background" in wrong(render_framed(scene), replace(scene, background="olive"))
