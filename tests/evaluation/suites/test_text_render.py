"""text-render: what the pixels show is counted where the prompt is of the poster grammar."""

from __future__ import annotations

from pathlib import Path

import fake_ocr

from glmkit.evaluation.suites.text_render import PROMPTS, SUITE, counts
from glmkit.posters.render import render
from glmkit.posters.simple import attribute_checks, layout_prompts, nano_prompts, retro_prompts
from glmkit.posters.style_set import render_framed


def test_every_prompt_of_nano_knows_what_its_image_must_show(tmp_path: Path) -> None:
    """And others do not: they are not counted."""
    prompts, ours = {prompt.id: prompt for prompt in SUITE.read([PROMPTS])}, nano_prompts()
    assert {name for name, prompt in prompts.items() if prompt.split in ours} == set(attribute_checks())
    image = tmp_path / "image.png"
    for (name, scene, _), draw, properties in (
        (layout_prompts()[0], render, 5),
        (retro_prompts()[0], render_framed, 6),
    ):
        draw(scene).save(image)
        assert counts(prompts[name], fake_ocr.recognized(*scene.texts), image)["attribute_accuracy"] == (
            properties,
            properties,
        )
    assert counts(prompts["simple-001"], (), image)["attribute_accuracy"][0] < 4
    unknown = next(prompt for prompt in prompts.values() if prompt.split == "long")
    assert counts(unknown, (), image)["attribute_accuracy"] == (0, 0)
