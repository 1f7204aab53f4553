"""The committed files of the posters package are what it writes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glmkit.files import read_jsonl
from glmkit.posters import layout_set, style_set
from glmkit.posters.check import check_attributes
from glmkit.posters.grammar import COLOURS, Scene
from glmkit.posters.layout_set import LAYOUTS
from glmkit.posters.render import render
from glmkit.posters.sets import FOLDERS
from glmkit.posters.simple import SPLITS, layout_prompts, prompt_records, retro_prompts, simple_prompts
from glmkit.posters.style_set import COLOURS as STYLE_COLOURS
from glmkit.posters.style_set import SCHEMES
from glmkit.posters.words import Split, is_held_out

ROOT = Path(__file__).parents[2]
SETS = {"posters": style_set, "layouts": layout_set}
MORE = {"layouts": {"regularization": layout_set.REGULARIZATION_COUNT}}


def quoted(name: str, split: Split) -> list[list[str]]:
    """The texts of every image of a set's split."""
    captions = [row["text"] for row in read_jsonl(ROOT / "data" / name / FOLDERS[split] / "metadata.jsonl")]
    return [re.findall(r'"([^"]*)"', caption) for caption in captions]


def assert_in_layout(scenes: list[tuple[Scene, str]]) -> None:
    """Every image is in the layout that its caption names, and the caption says nothing else about positions."""
    for scene, caption in scenes:
        prose, name = re.fullmatch(r"(.*), in the (\w+) layout\.", caption).groups()  # type: ignore[union-attr]
        assert (scene.position, scene.shape.position) == LAYOUTS[name]
        assert not re.search(r"\b(top|middle|bottom|left|right|corner)\b|  ", re.sub(r'"[^"]*"', "TEXT", prose)), (
            caption
        )
        assert all(check_attributes(render(scene), scene).values()), caption


@pytest.mark.parametrize("name", SETS)
def test_writing_a_set_again_changes_nothing(name: str, tmp_path: Path) -> None:
    SETS[name].write_set(tmp_path)
    counts = {FOLDERS[split]: count for split, count in SETS[name].COUNTS.items()}
    for folder, count in (counts | MORE.get(name, {})).items():
        committed, written = ROOT / "data" / name / folder, tmp_path / folder
        rows = read_jsonl(committed / "metadata.jsonl")
        assert rows == read_jsonl(written / "metadata.jsonl")
        assert len(rows) == count
        assert {row["file_name"] for row in rows} == {path.name for path in committed.glob("*.png")}
        for row in rows:
            old, new = Image.open(committed / row["file_name"]), Image.open(written / row["file_name"])
            assert old.mode == "RGB"
            assert old.size == (256, 256)
            assert np.array_equal(np.asarray(old), np.asarray(new)), row["file_name"]
            assert (committed / row["file_name"]).stat().st_size < 30_000


def test_the_style_is_new_to_a_model_of_the_posters() -> None:
    assert not set(STYLE_COLOURS) & set(COLOURS)
    for colour in STYLE_COLOURS.values():
        assert min(np.abs(np.subtract(colour, other)).max() for other in COLOURS.values()) >= 24


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("split", FOLDERS)
def test_captions_hold_words_of_their_split(name: str, split: Split) -> None:
    for texts in quoted(name, split):
        assert 1 <= len(texts) <= 2
        for word in " ".join(texts).split():
            assert is_held_out(word.strip("!?.")) == (split == "held-out")


@pytest.mark.parametrize("split", FOLDERS)
def test_captions_name_what_is_new(split: Split) -> None:
    assert all("retro" in caption and "framed" in caption for _, caption in style_set.style_scenes(split))
    assert_in_layout(list(layout_set.layout_scenes(split)))


def test_regularization_posters_are_described_without_a_layout() -> None:
    for scene, caption in layout_set.regularization_scenes():
        assert "layout" not in caption
        assert scene.position in caption
        assert scene.shape.position in caption
        assert not any(is_held_out(word.strip("!?.")) for text in scene.texts for word in text.split())
        assert all(check_attributes(render(scene), scene).values()), caption


@pytest.mark.parametrize("split", SPLITS)
def test_the_simple_prompts_are_held_out_and_different(split: str) -> None:
    prompts, (count, size) = simple_prompts(split), SPLITS[split]
    assert len(prompts) == count == len({prompt for _, _, prompt in prompts})
    assert {f"{scene.width}x{scene.height}" for _, scene, _ in prompts} == {size or "256x256"}
    assert simple_prompts(split) == prompts
    texts = [text for _, scene, _ in prompts for text in scene.texts]
    assert len({text.lower() for text in texts}) == len(texts)
    if split == "simple-signs":
        shown = "".join(scene.texts[0] for _, scene, _ in prompts)
        assert set("0123456789.,%$:-&'") <= set(shown)
        texts = [text for _, scene, _ in prompts for text in scene.texts[1:]]
    assert all(is_held_out(word.strip("!?.")) for text in texts for word in text.split())
    assert len({scene.background for _, scene, _ in prompts}) >= len(COLOURS) - 2


def test_measured_prompts_stay_as_they_are() -> None:
    """Figures of the log were measured on the first 64 prompts."""
    measured = [row for row in prompt_records() if row["split"] == "simple"][:64]
    content = "\n".join(f"{row['id']} {row['prompt']}" for row in measured)
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "2bbefc4b78494fb4"


@pytest.mark.parametrize(("prompts", "name"), [(retro_prompts, "posters"), (layout_prompts, "layouts")])
def test_prompts_have_held_out_texts_that_their_set_does_not_have(
    prompts: Callable[[], list[tuple[str, Scene, str]]], name: str
) -> None:
    shown = {text.lower() for split in FOLDERS for texts in quoted(name, split) for text in texts}
    texts = [text for _, scene, _ in prompts() for text in scene.texts]
    assert len({text.lower() for text in texts}) == len(texts)
    assert not {text.lower() for text in texts} & shown
    assert all(is_held_out(word.strip("!?.")) for text in texts for word in text.split())


def test_the_retro_prompts_ask_for_the_style() -> None:
    assert {scene.background for _, scene, _ in retro_prompts()} == {scheme[0] for scheme in SCHEMES}
    assert all("retro" in prompt and "double" in prompt for _, _, prompt in retro_prompts())


def test_the_layout_prompts_ask_for_both_layouts() -> None:
    assert_in_layout([(scene, prompt) for _, scene, prompt in layout_prompts()])
    assert all(sum(name in prompt for _, _, prompt in layout_prompts()) >= 12 for name in LAYOUTS)


def test_the_benchmark_file_holds_the_prompts_of_nano() -> None:
    path = ROOT / "benchmarks" / "text_render" / "prompts.jsonl"
    committed = [row for row in read_jsonl(path) if row["split"] in {*SPLITS, "retro", "layouts"}]
    assert committed == prompt_records(), "write them again: python -m glmkit.posters.simple"
