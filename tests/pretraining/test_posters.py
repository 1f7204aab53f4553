"""Posters as training images: what they hold, that sets join, and which words validation has."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from glmkit.errors import UserError
from glmkit.inputs.quotes import quoted_texts
from glmkit.posters import grammar, masks, render
from glmkit.posters.everyday import masks as everyday_masks
from glmkit.posters.everyday import render as everyday_render
from glmkit.pretraining import config, posters
from glmkit.pretraining.characters import character_labels
from glmkit.pretraining.config import PosterData, PretrainData
from glmkit.pretraining.posters import EditDataset, EverydayEditDataset, PosterDataset
from glmkit.training import data

CPU = torch.device("cpu")


def test_posters_are_what_the_renderer_draws() -> None:
    images = PosterDataset(5, 64, 96, seed=3, workers=1, split="train")
    scenes, text_masks = masks.scenes_with_masks(5, 3, height=64, width=96)
    assert images.sizes == [(64, 96)] * 5
    pixels = images.pixels([4, 0, 2], CPU)
    for index, row in zip([4, 0, 2], pixels, strict=True):
        expected = torch.from_numpy(np.array(render.render(scenes[index]))).permute(2, 0, 1)
        assert ((row + 1) * 127.5 - expected).abs().max() <= 1
        assert all(f'"{text}"' in images.captions[index] for text in scenes[index].texts)
    mask = images.text_mask([4, 1], CPU)
    assert mask is not None
    assert mask.shape == (2, 1, 64, 96)
    assert torch.equal((mask * 255).round().to(torch.uint8)[:, 0], torch.from_numpy(text_masks[[4, 1]]))
    again = PosterDataset(5, 64, 96, seed=3, workers=2, split="train")
    assert again.captions == images.captions
    assert torch.equal(again.pixels([1], CPU), images.pixels([1], CPU))


def test_a_recipe_holds_words_back() -> None:
    train, validation = posters.load(PretrainData(posters=PosterData(count=4, validation=3, size="64x32", workers=1)))
    assert len(train.captions) == 4
    assert validation.sizes == [(32, 64)] * 3
    scene = masks.indexed_scene(1, 0, height=32, width=64, split="held-out")
    assert validation.captions[0] == grammar.caption(scene, random.Random("1-0"))
    with pytest.raises(UserError, match="multiples of 32"):
        posters.load(PretrainData(posters=PosterData(count=4, size="100x64")))


def rendered(scene: grammar.Scene) -> Tensor:
    return torch.from_numpy(np.array(render.render(scene))).permute(2, 0, 1) / 127.5 - 1


def test_edits_are_pairs_of_posters() -> None:
    """A source with its own caption, then its edit with the instruction; masks and signs are those of each side."""
    images = EditDataset(5, 64, 96, seed=3, workers=1, split="train")
    series = [masks.indexed_edit(3, index, height=64, width=96, split="train") for index in range(5)]
    assert images.condition_images == {1: (0,), 3: (2,), 5: (4,), 7: (6,), 9: (8,)}
    assert images.sizes == [(64, 96)] * 10
    scenes = [scene for edit in series for scene in (edit.condition, edit.target)]
    pixels, text = images.pixels(list(range(10)), CPU), images.text_mask(list(range(10)), CPU)
    labels = images.character_labels(list(range(10)), CPU)
    assert text is not None
    for index, scene in enumerate(scenes):
        assert (pixels[index] - rendered(scene)).abs().max() <= 1.01 / 127.5
        assert torch.equal((text[index, 0] * 255).round().byte(), torch.from_numpy(masks.text_mask(scene).copy()))
        assert torch.equal(labels[index], torch.from_numpy(masks.character_label_map(scene)))
    assert images.captions[1::2] == [edit.instruction for edit in series]
    for edit, caption in zip(series, images.captions[::2], strict=True):
        assert all(f'"{text}"' in caption for text in edit.condition.texts)


def test_everyday_edits_are_pairs_of_scenes() -> None:
    """The decoder gets what an instruction quotes: the new text, and the old one where that is quoted."""
    images = EverydayEditDataset(8, 64, 96, seed=3, workers=1, split="train")
    series = [everyday_masks.indexed_edit(3, index, height=64, width=96, split="train") for index in range(8)]
    assert images.condition_images == {2 * pair + 1: (2 * pair,) for pair in range(8)}
    assert images.sizes == [(64, 96)] * 16
    pixels, labels = images.pixels(list(range(16)), CPU), images.character_labels(list(range(16)), CPU)
    text = images.text_mask(list(range(16)), CPU)
    assert text is not None
    for index, scene in enumerate(scene for edit in series for scene in (edit.condition, edit.target)):
        expected = torch.from_numpy(np.array(everyday_render.render(scene))).permute(2, 0, 1) / 127.5 - 1
        assert (pixels[index] - expected).abs().max() <= 1.01 / 127.5
        mask = torch.from_numpy(everyday_masks.text_mask(scene).copy())
        assert torch.equal((text[index, 0] * 255).round().byte(), mask)
        assert torch.equal(labels[index], torch.from_numpy(everyday_masks.character_label_map(scene)))
    assert images.captions[1::2] == [edit.instruction for edit in series]
    texts = data.glyph_texts(images)
    assert texts[::2] == [list(edit.condition.texts) for edit in series]
    assert texts[1::2] == [quoted_texts(edit.instruction) for edit in series]


@pytest.mark.parametrize("world", ["plain", "everyday"])
def test_a_recipe_names_the_world_of_its_edits(world: str) -> None:
    few: dict[str, Any] = {"count": 2, "validation": 1, "size": {"64x64": 1, "96x64": 1}, "workers": 1, "world": world}
    train, validation = posters.load(PretrainData(posters=PosterData(**few), edits=PosterData(**few)))
    assert isinstance(train, data.ConcatDataset)
    assert [type(images) for images in train.sets] == [kind for kind in posters.KINDS[world] for _ in range(2)]
    assert Counter(train.sizes) == {(64, 64): 3, (64, 96): 3}
    assert validation.condition_images == {1: (0,), 3: (2,)}


def test_joined_sets_are_their_images_one_after_the_other() -> None:
    """Also for images asked for in any order, and where the numbers of sources shift."""
    poster_set = PosterDataset(3, 64, 64, seed=1, workers=1, split="train")
    edits = EditDataset(2, 64, 64, seed=2, workers=1, split="train")
    joined = data.ConcatDataset([poster_set, edits])
    assert joined.captions == poster_set.captions + edits.captions
    assert joined.condition_images == {4: (3,), 6: (5,)}
    order = [6, 0, 3, 2, 0]
    owners = [(edits, 3), (poster_set, 0), (edits, 0), (poster_set, 2), (poster_set, 0)]
    for ask in ("pixels", "text_mask"):
        expected = torch.cat([getattr(images, ask)([index], CPU) for images, index in owners])
        assert torch.equal(getattr(joined, ask)(order, CPU), expected)
    expected = torch.cat([images.character_labels([index], CPU) for images, index in owners])
    labels = character_labels(joined, order, CPU)
    assert labels is not None
    assert torch.equal(labels, expected)


def test_one_set_that_knows_no_text_hides_that_of_the_others(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a"}))
    poster_set = PosterDataset(1, 64, 64, seed=1, workers=1, split="train")
    joined = data.ConcatDataset([poster_set, data.FileDataset(tmp_path)])
    assert joined.text_mask([0, 1], CPU) is None
    assert character_labels(joined, [1], CPU) is None
    assert joined.pixels([1, 0], CPU).shape == (2, 3, 64, 64)


def test_edits_of_a_recipe_stand_before_its_posters() -> None:
    """Validation losses look at the first images: edits and descriptions in turn, then posters."""
    few: dict[str, Any] = {"size": "64x64", "workers": 1}
    given = PretrainData(
        posters=PosterData(count=3, validation=2, **few), edits=PosterData(count=2, validation=1, **few)
    )
    train, validation = posters.load(given)
    assert train.condition_images == {1: (0,), 3: (2,)}
    assert len(train.captions) == 2 * 2 + 3
    assert validation.condition_images == {1: (0,)}
    assert len(validation.captions) == 2 + 2
    edit = masks.indexed_edit(1, 0, height=64, width=64, split="held-out")
    assert validation.captions[1] == edit.instruction
    alone, _ = posters.load(PretrainData(edits=given.edits))
    assert alone.captions == train.captions[:4]
    with pytest.raises(UserError, match="multiples of 32"):
        posters.load(PretrainData(edits=PosterData(count=4, size="100x64")))


def test_edits_share_no_batch_with_descriptions() -> None:
    joined = data.ConcatDataset(
        [
            EditDataset(6, 64, 64, seed=2, workers=1, split="train"),
            PosterDataset(4, 32, 64, seed=1, workers=1, split="train"),
        ]
    )
    buckets = data.buckets(joined)
    assert Counter(buckets) == {(64, 64, ()): 6, (64, 64, ((64, 64),)): 6, (32, 64, ()): 4}
    batches = data.Batches(buckets, 3, seed=0)
    steps = [batches[step] for step in range(batches.per_epoch)]
    assert sum(set(batch) <= set(joined.condition_images) for batch in steps) == 2
    assert all(
        set(batch) <= set(joined.condition_images) or not set(batch) & set(joined.condition_images) for batch in steps
    )


def test_posters_of_several_sizes() -> None:
    recipe: dict[str, Any] = {
        "output": "x",
        "data": {"posters": {"count": 9, "validation": 3, "size": {"64x64": 2, "96x64": 1}}},
    }
    recipe["vae"] = {"steps": 1, "global_batch_size": 1, "learning_rate": 1}
    train, validation = posters.load(config.from_dict(recipe).data)
    assert Counter(train.sizes) == {(64, 64): 6, (64, 96): 3}
    assert len(validation.sizes) == 3
    indices = [index for index, size in enumerate(train.sizes) if size == (64, 96)]
    assert train.pixels(indices, torch.device("cpu")).shape == (3, 3, 64, 96)
