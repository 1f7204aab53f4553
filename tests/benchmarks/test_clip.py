"""The CLIP that ships: open_clip loads it, it finds captions of posters it has never seen, and it stays small."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from glmkit import hashing
from glmkit.files import read_json
from glmkit.models.clip.model import PREFIX
from glmkit.posters.grammar import caption
from glmkit.posters.masks import indexed_scene
from glmkit.posters.render import render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "data" / "clip"
RESULT = ROOT / "benchmarks" / "results" / "clip.json"


@pytest.fixture(scope="module")
def judged() -> tuple[list[str], torch.Tensor, Any, Any]:
    """Captions and image features of 64 posters with a seed that neither training nor the benchmark uses."""
    scenes = [indexed_scene(77, index, height=256, width=256, split="held-out") for index in range(64)]
    captions = [caption(scene, random.Random(index)) for index, scene in enumerate(scenes)]
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([prepare(render(scene)) for scene in scenes]), normalize=True)
    return captions, images, model, open_clip.get_tokenizer(f"local-dir:{FOLDER}")


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_held_out_posters_find_their_captions(judged: tuple[list[str], torch.Tensor, Any, Any], prefix: str) -> None:
    captions, images, model, tokenizer = judged
    with torch.no_grad():
        texts = model.encode_text(tokenizer([prefix + text for text in captions]), normalize=True)
    found = (images @ texts.T).argmax(dim=1) == torch.arange(64)  # chance is 1/64
    assert found.float().mean() >= 0.8


def test_no_caption_is_cut(judged: tuple[list[str], torch.Tensor, Any, Any]) -> None:
    """Cutting would lose the shape, which captions name last."""
    captions, _, _, tokenizer = judged
    longest = max(len(tokenizer.tokenizer(PREFIX + text)["input_ids"]) for text in captions)
    assert longest <= tokenizer.context_length


def test_figures_are_those_of_the_weights() -> None:
    result = read_json(RESULT)
    assert result["weights"] == hashing.fingerprint(FOLDER / "open_clip_model.safetensors")
    assert "not comparable with published CLIPScores" in result["model"]
    assert result["recall_at_1_among_64"]["image_to_caption 256x256 plain grammar"]["mean"] >= 0.8


def test_it_is_small_and_says_what_it_is_not() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 6 * 2**20
    assert "not comparable with published CLIPScores" in " ".join((FOLDER / "README.md").read_text().split())
