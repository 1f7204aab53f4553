"""Pairs as training sees them: both images of one size, the rejected one shown in no epoch of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from glmkit.config import ImageSettings
from glmkit.errors import UserError
from glmkit.files import write_jsonl
from glmkit.training import data
from glmkit.training.data import summary
from glmkit.training.data.image_files import share_buckets

CPU = torch.device("cpu")
Size = tuple[int, int]


def pair(folder: Path, name: str, chosen: Size = (64, 64), rejected: Size = (64, 64), **more: object) -> dict[str, Any]:
    """A record of two images of these widths and heights, white and black."""
    for kind, size, colour in (("chosen", chosen, "white"), ("rejected", rejected, "black")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(folder / kind / f"{name}.png")
    files = {f"{kind}_file_name": f"{kind}/{name}.png" for kind in ("chosen", "rejected")}
    return {"prompt": f"a {name}", **files, **more}


def load(folder: Path, *records: dict[str, Any], **settings: Any) -> data.FileDataset:
    write_jsonl(folder / "metadata.jsonl", records)
    return data.FileDataset(folder, ImageSettings.model_validate(settings))


def test_each_caption_has_its_pair(tmp_path: Path) -> None:
    fox = pair(tmp_path, "fox", prompt=["a fox", "one fox"], texts=["FOX"])
    owl = pair(tmp_path, "owl")
    found = load(tmp_path, fox, owl)
    assert found.captions == ["a fox", "one fox", "a fox", "one fox", "a owl", "a owl"]
    assert found.rejected == {2: 0, 3: 1, 5: 4}
    assert found.repeats == [0, 0, 1, 0, 0, 1]
    assert found.texts == [("FOX",)] * 4 + [None] * 2
    assert found.pixels([2, 3], CPU).min() == 1
    assert found.pixels([0, 1], CPU).max() == -1
    assert None not in data.kinds_with_caption(found), "captions of rejected images are read, too"
    batches = data.Batches(data.buckets(found), 1, 0, found.repeats, same_image=found.same_image)
    assert {index for step in range(40) for index in batches[step]} == {2, 3, 5}
    assert data.ConcatDataset([found, found]).rejected == {2: 0, 3: 1, 5: 4, 8: 6, 9: 7, 11: 10}
    about = summary.summarize(found)
    assert (about.images, about.pairs, about.captions) == (2, 2, 3)
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "rejected/owl.png")
    assert summary.summarize(load(tmp_path, fox, owl)).content != about.content


def test_pairs_of_one_prompt_are_held_back_together(tmp_path: Path) -> None:
    """What is learnt of some would be measured on others; their images differ."""
    records = []
    for number in range(8):
        records.append(pair(tmp_path, f"{number}", prompt="a fox" if number % 2 else "an owl"))
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "chosen" / f"{number}.png")
    found = load(tmp_path, *records)
    assert found.n_different == 2
    held = found.hold_back(1)
    captions = [set(one.captions) for one in (found, held)]
    assert sorted(captions, key=min) == [{"a fox"}, {"an owl"}]
    assert len(held.rejected) == len(found.rejected) == 4


def test_both_images_of_an_edit_begin_with_the_same(tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), "blue").save(tmp_path / "before.png")
    found = load(tmp_path, pair(tmp_path, "fox", condition_image="before.png"))
    assert found.rejected == {2: 1}
    assert found.condition_images == {1: (0,), 2: (0,)}
    assert data.kinds(found)[1:] == [(64, 64, ((64, 96),))] * 2


@pytest.mark.parametrize(
    ("chosen", "rejected", "size"),
    [((64, 64), (128, 128), (64, 64)), ((128, 96), (64, 64), (64, 64)), ((96, 64), (96, 64), (64, 96))],
)
def test_both_images_take_the_smaller_size(chosen: Size, rejected: Size, size: Size, tmp_path: Path) -> None:
    found = load(tmp_path, pair(tmp_path, "fox", chosen, rejected), max_crop=0.3)
    assert found.sizes == [size, size]
    assert found.pixels([0], CPU).shape == found.pixels([1], CPU).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("settings", "rejected", "message"),
    [({}, (128, 64), "another shape"), ({"fit": "exact"}, (96, 64), "another shape"), ({}, (16, 16), "too small")],
)
def test_pairs_that_cannot_have_one_size_are_refused(
    settings: dict[str, str], rejected: Size, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, pair(tmp_path, "fox", rejected=rejected), **settings)


def test_a_rejected_image_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the rejected image of image .* does not exist"):
        load(tmp_path, {**pair(tmp_path, "fox"), "rejected_file_name": "rejected/wolf.png"})


def test_pairs_take_the_shape_of_others_together(tmp_path: Path) -> None:
    """As single images do, to fill a batch; those whose images are not fitted alike keep theirs."""
    records = [pair(tmp_path, f"fox{number}") for number in range(3)]
    records.append(pair(tmp_path, "alike", (64, 96), (64, 96)))
    records.append(pair(tmp_path, "scaled", (128, 192), (64, 96)))
    records.append(pair(tmp_path, "unlike", (64, 96), (72, 96)))
    found = load(tmp_path, *records)
    share_buckets([found], 3, 0.4)
    for indices in (found.rejected, found.rejected.values()):
        assert [found.pixels([index], CPU).shape[2:] for index in indices] == [found.sizes[index] for index in indices]
        assert [found.sizes[index] for index in indices] == [(64, 64)] * 5 + [(96, 64)]
