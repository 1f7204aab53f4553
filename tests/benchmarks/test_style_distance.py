"""The style distance: posters of the style are as near as the style to itself, others are farther by each thing."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from glmkit.errors import UserError
from glmkit.files import write_json, write_jsonl
from glmkit.posters.grammar import Scene
from glmkit.posters.render import render
from glmkit.posters.simple import retro_prompts
from glmkit.posters.style_set import COLOURS, FRAME, SIZE, render_framed
from glmkit.records import Generation

style = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "style_distance.py")))


def without_frame(scene: Scene) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), COLOURS[scene.background])
    image.paste(render(scene, COLOURS), (FRAME, FRAME))
    return image


def in_grey(scene: Scene) -> Image.Image:
    return render_framed(scene).convert("L").convert("RGB")


def finished_run(run: Path, draw: Callable[[Scene], Image.Image], count: int, split: str = "retro") -> Path:
    rows = []
    for name, scene, prompt in retro_prompts()[:count]:
        (run / "images").mkdir(parents=True, exist_ok=True)
        draw(scene).save(run / f"images/{name}.png")
        rows.append(Generation(f"{name}_0", name, prompt, 0, f"images/{name}.png", 1.0).to_dict())
    write_json(run / "manifest.json", {"settings": {"split": split, "model": "nano"}})
    write_json(run / "summary.json", {})
    write_jsonl(run / "images.jsonl", rows)
    return run


RENDERED: dict[str, Callable[[Scene], Image.Image]] = {"style": render_framed, "bare": without_frame, "grey": in_grey}


@pytest.mark.parametrize(("kind", "noticed"), [("form", "bare"), ("colours", "grey")])
def test_each_kind_of_features_notices_what_it_is_for(kind: str, noticed: str, tmp_path: Path) -> None:
    """Without its frame the style is farther in form, without its colours farther in colours."""
    runs = [finished_run(tmp_path / name, RENDERED[name], 12) for name in ("style", noticed)]
    result = style.compare(
        style.feature_extractors()[kind], style.reference()[::2], [style.images_of(run) for run in runs]
    )
    near, far = result["distances"].values()
    (change,) = result["differences"].values()
    assert near.value < result["self_distance"].high < far.low
    assert change.low > 0
    assert change.difference == pytest.approx(far.value - near.value)
    shown = style.table({kind: result})
    assert shown.startswith(f"{kind} (lower is nearer): the set against itself ")
    assert shown.endswith("n 12: farther")


def test_colours_are_the_affinity_of_two_histograms() -> None:
    one, other = (Image.new("RGB", (8, 8), colour) for colour in ("black", "white"))
    both = Image.new("RGB", (8, 8), "black")
    both.paste("white", (0, 0, 8, 4))
    features = style.colours([one, other, both])
    assert features @ features.T / features.shape[1] == pytest.approx(
        np.array([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]])
    )


def test_runs_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished evaluation"):
        style.images_of(tmp_path)
    with pytest.raises(UserError, match="does not ask for the style"):
        style.images_of(finished_run(tmp_path / "simple", render_framed, 2, split="simple"))
    with pytest.raises(UserError, match="too few images"):
        style.images_of(finished_run(tmp_path / "one", render_framed, 1))
