"""The files that were drawn by the posters package are what it draws."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glmkit.files import read_jsonl
from glmkit.posters.grammar import COLOURS
from glmkit.posters.simple import SPLITS, retro_prompts, retro_rows, simple_prompts, simple_rows, simple_scenes
from glmkit.posters.style_set import COLOURS as STYLE_COLOURS
from glmkit.posters.style_set import COUNTS, FOLDERS, SCHEMES, write_set
from glmkit.posters.words import held_out

ROOT = Path(__file__).parents[2]
POSTERS = ROOT / "data" / "posters"


def test_drawing_the_style_set_again_changes_nothing(tmp_path: Path) -> None:
    write_set(tmp_path)
    for split, folder in FOLDERS.items():
        kept, drawn = POSTERS / folder, tmp_path / folder
        rows = read_jsonl(kept / "metadata.jsonl")
        assert rows == read_jsonl(drawn / "metadata.jsonl") and len(rows) == COUNTS[split]
        assert {row["file_name"] for row in rows} == {path.name for path in kept.glob("*.png")}
        for row in rows:
            old, new = Image.open(kept / row["file_name"]), Image.open(drawn / row["file_name"])
            assert old.mode == "RGB" and old.size == (256, 256)
            assert np.array_equal(np.asarray(old), np.asarray(new)), row["file_name"]
            assert (kept / row["file_name"]).stat().st_size < 30_000


def test_the_style_is_new_to_a_model_of_the_posters() -> None:
    assert not set(STYLE_COLOURS) & set(COLOURS)
    for colour in STYLE_COLOURS.values():
        assert min(np.abs(np.subtract(colour, other)).max() for other in COLOURS.values()) >= 24


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_style_captions_hold_words_of_their_split(split: str) -> None:
    for row in read_jsonl(POSTERS / FOLDERS[split] / "metadata.jsonl"):  # type: ignore[index]
        texts = re.findall(r'"([^"]*)"', row["text"])
        assert 1 <= len(texts) <= 2 and "retro" in row["text"] and "framed" in row["text"]
        for word in " ".join(texts).split():
            assert held_out(word.strip("!?.")) == (split == "held-out")


@pytest.mark.parametrize("split", SPLITS)
def test_the_simple_prompts_are_held_out_and_different(split: str) -> None:
    prompts, (count, size) = simple_prompts(split), SPLITS[split]
    assert len(prompts) == count == len({prompt for _, _, prompt in prompts})
    assert {f"{scene.width}x{scene.height}" for _, scene, _ in prompts} == {size or "256x256"}
    assert all(simple_scenes()[name] == scene for name, scene, _ in prompts[:3])
    texts = [text for _, scene, _ in prompts for text in scene.texts]
    assert len({text.lower() for text in texts}) == len(texts)
    if split == "simple-signs":
        shown = "".join(scene.texts[0] for _, scene, _ in prompts)
        assert set("0123456789.,%$:-&'") <= set(shown)
        texts = [text for _, scene, _ in prompts for text in scene.texts[1:]]
    assert all(held_out(word.strip("!?.")) for text in texts for word in text.split())
    assert len({scene.background for _, scene, _ in prompts}) >= len(COLOURS) - 2


def test_measured_prompts_stay_as_they_are() -> None:
    """Figures of the log were measured on the first 64 prompts."""
    rows = [row for row in simple_rows() if row["split"] == "simple"][:64]
    content = "\n".join(f"{row['id']} {row['prompt']}" for row in rows)
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "2bbefc4b78494fb4"


def test_the_retro_prompts_ask_for_the_style_with_other_texts() -> None:
    captions = [row["text"] for folder in FOLDERS.values() for row in read_jsonl(POSTERS / folder / "metadata.jsonl")]
    shown = {text for caption in captions for text in re.findall(r'"([^"]*)"', caption)}
    texts = [text for _, scene, _ in retro_prompts() for text in scene.texts]
    assert len({text.lower() for text in texts}) == len(texts) and not set(texts) & shown
    assert all(held_out(word.strip("!?.")) for text in texts for word in text.split())
    assert {scene.background for _, scene, _ in retro_prompts()} == {scheme[0] for scheme in SCHEMES}
    assert all("retro" in prompt and "double" in prompt for _, _, prompt in retro_prompts())


def test_the_benchmark_file_holds_the_prompts_of_nano() -> None:
    path = ROOT / "benchmarks" / "text_render" / "prompts.jsonl"
    kept = [row for row in read_jsonl(path) if row["split"] in {*SPLITS, "retro"}]
    assert kept == simple_rows() + retro_rows(), "draw them again: python -m glmkit.posters.simple"
