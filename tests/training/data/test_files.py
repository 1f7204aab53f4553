"""Images as people have them: tables, parquet, saved datasets, edit pairs, text boxes, and files that are broken."""

from __future__ import annotations

import functools
import io
import json
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from glmkit import config
from glmkit.errors import UserError
from glmkit.pretraining.posters import PosterDataset
from glmkit.training import data
from glmkit.training.data import summary

CPU = torch.device("cpu")


def draw(path: Path | io.BytesIO, width: int = 64, height: int = 32, seed: int = 0) -> np.ndarray:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(path, format="PNG")
    return levels


def encoded(seed: int) -> tuple[bytes, np.ndarray]:
    buffer = io.BytesIO()
    levels = draw(buffer, seed=seed)
    return buffer.getvalue(), levels


def table(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def assert_pixels(images: data.FileDataset, index: int, levels: np.ndarray) -> None:
    expected = torch.from_numpy(levels.copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(images.pixels([index], CPU)[0], expected, atol=1e-6, rtol=0)


def test_parquet_with_columns_of_any_name(tmp_path: Path) -> None:
    stored = [encoded(seed) for seed in range(3)]
    rows: dict[str, list[Any]] = {"pic": [{"bytes": png, "path": None} for png, _ in stored], "prompt": ["a", "b", "c"]}
    for number in range(3):
        part = {name: values[number : number + 1] for name, values in rows.items()}
        pyarrow.parquet.write_table(pyarrow.table(part), tmp_path / f"train-{number}.parquet")
    reading = config.ImageSettings(columns=config.Columns(image="pic", caption="prompt"))
    for where in (tmp_path, tmp_path / "train-*.parquet"):
        images = data.FileDataset(where, reading)
        assert images.captions == ["a", "b", "c"]
        for index, (_, levels) in enumerate(stored):
            assert_pixels(images, index, levels)
    with pytest.raises(UserError, match=r"no column image[\s\S]*columns pic, prompt[\s\S]*data.columns.image=NAME"):
        data.FileDataset(tmp_path)


def test_a_dataset_saved_by_datasets(tmp_path: Path) -> None:
    """The layout of `Dataset.save_to_disk`: arrow streams beside a state.json."""
    stored = [encoded(seed) for seed in range(2)]
    rows = pyarrow.table({"image": [{"bytes": png, "path": None} for png, _ in stored], "text": ["a", "b"]})
    (tmp_path / "state.json").write_text("{}")
    with pyarrow.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", rows.schema) as stream:
        stream.write_table(rows)
    images = data.FileDataset(tmp_path)
    assert images.captions == ["a", "b"]
    assert_pixels(images, 1, stored[1][1])


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a whole parquet file"):
        data.FileDataset(tmp_path / "a.parquet")


def test_edit_pairs(tmp_path: Path) -> None:
    """The source is there to be read, never an image of a batch, and is cut as its target is."""
    before, after = draw(tmp_path / "before.png", 70, 40, 1), draw(tmp_path / "after.png", 70, 40, 2)
    draw(tmp_path / "plain.png", 64, 32, 3)
    table(
        tmp_path,
        {"file_name": "after.png", "condition_image": "before.png", "text": 'Write "B"'},
        {"file_name": "plain.png", "text": "plain"},
    )
    images = data.FileDataset(tmp_path, repeats=2)
    assert images.condition_images == {1: (0,)}
    assert images.repeats == [0, 2, 2]
    assert images.sizes == [(32, 64)] * 3
    assert_pixels(images, 0, before[4:36, 3:67])
    assert_pixels(images, 1, after[4:36, 3:67])
    kinds = data.buckets(images)
    assert kinds == [None, (32, 64, ((32, 64),)), (32, 64, ())]
    batches = data.Batches(kinds, 2, seed=0, repeats=images.repeats)
    assert sorted(batches[step] for step in range(batches.per_epoch)) == [[1, 1], [2, 2]]
    assert data.first_batches(kinds, 4, limit=9) == [[2], [1]], "a source takes no place among the validation images"
    assert summary.summarize(images).buckets == {"64x32": 1, "64x32 edits": 1}
    assert summary.summarize(images).edits == 2


@pytest.mark.parametrize("as_table", [False, True])
def test_sources_of_other_sizes(tmp_path: Path, as_table: bool) -> None:
    """One, or up to three, each with a size of its own; what shares a batch has sources of the same sizes."""
    sources = [draw(tmp_path / f"{number}.png", 64 + 32 * number, 96, number) for number in range(2)]
    draw(tmp_path / "after.png", 96, 64)
    named = (["0.png"], ["0.png", "1.png"], ["0.png"])
    if as_table:
        cells = [[{"bytes": (tmp_path / name).read_bytes(), "path": None} for name in names] for names in named]
        after = [{"bytes": (tmp_path / "after.png").read_bytes(), "path": None}] * 3
        rows = pyarrow.table({"image": after, "condition_image": cells, "text": ["a"] * 3})
        pyarrow.parquet.write_table(rows, tmp_path / "train.parquet")
    else:
        table(tmp_path, *({"file_name": "after.png", "condition_image": names, "text": "a"} for names in named))
    images = data.FileDataset(tmp_path / "train.parquet" if as_table else tmp_path)
    assert images.condition_images == {1: (0,), 4: (2, 3), 6: (5,)}
    assert data.buckets(images)[1] == data.buckets(images)[6] == (64, 96, ((96, 64),))
    assert data.buckets(images)[4] == (64, 96, ((96, 64), (96, 96)))
    assert_pixels(images, 3, sources[1])
    assert summary.summarize(images).buckets == {"96x64 edits of 64x96": 2, "96x64 edits of 64x96 + 96x96": 1}


def test_too_many_sources(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 64, 64)
    table(tmp_path, {"file_name": "a.png", "condition_image": ["a.png"] * 4, "text": "a"})
    with pytest.raises(UserError, match=r"too many condition images[\s\S]*4[\s\S]*1 to 3"):
        data.FileDataset(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (48, 32), (288, 192), (64, 64)])
def test_masks_of_other_sizes(tmp_path: Path, width: int, height: int) -> None:
    """A mask of the image's shape is scaled, one of another shape refused."""
    draw(tmp_path / "a.png", 96, 64)
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 3, height))
    mask.save(tmp_path / "mask.png")
    table(tmp_path, {"file_name": "a.png", "mask": "mask.png", "text": "a"})
    if width == height:
        with pytest.raises(UserError, match=r"another shape[\s\S]*64x64, the image 96x64"):
            data.FileDataset(tmp_path)
        return
    found = data.FileDataset(tmp_path).text_mask([0], CPU)
    assert found is not None
    assert found[0, 0, :, :30].min() > 0.95
    assert found[0, 0, :, 36:].max() < 0.05


def test_text_boxes_and_masks_follow_the_image(tmp_path: Path) -> None:
    """Scaled to half and cut: a box of 20..60 becomes 10..30, 16 columns less at the left; a mask says the same."""
    for name in ("boxes", "mask"):
        draw(tmp_path / f"{name}.png", 192, 128)
    levels = np.zeros((128, 192), dtype=np.uint8)
    levels[32:96, 64:96] = 255
    Image.fromarray(levels).save(tmp_path / "where.png")
    table(
        tmp_path,
        {"file_name": "boxes.png", "text": "a", "text_boxes": [[64, 32, 96, 96]]},
        {"file_name": "mask.png", "text": "b", "mask": "where.png"},
    )
    reading = config.ImageSettings(size="96x64")
    masks = data.FileDataset(tmp_path, reading).text_mask([0, 1], CPU)
    assert masks is not None
    assert masks.shape == (2, 1, 64, 96)
    assert torch.equal(masks[0], masks[1])
    assert masks[0, 0, 18:46, 34:46].min() > 0.9
    assert masks[0, 0, :, 52:].max() < 0.1
    assert masks[0].mean() == pytest.approx(levels.mean() / 255, abs=0.01)


def test_text_known_for_some_images_only(tmp_path: Path) -> None:
    draw(tmp_path / "a.png"), draw(tmp_path / "b.png")
    table(tmp_path, {"file_name": "a.png", "text": "a", "text_boxes": []}, {"file_name": "b.png", "text": "b"})
    with pytest.raises(UserError, match=r"for some images only[\s\S]*b\.png"):
        data.FileDataset(tmp_path)


def test_broken_images_are_named_together_or_left_out(tmp_path: Path) -> None:
    draw(tmp_path / "good.png")
    draw(tmp_path / "tiny.png", 16, 16)
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    table(tmp_path, *({"file_name": f"{name}.png", "text": name} for name in ("cut", "good", "gone", "tiny")))
    with pytest.raises(UserError) as caught:
        data.FileDataset(tmp_path)
    for said in ("3 images of", "cut.png cannot be read", "gone.png has no image", "too small", "on_bad_image=skip"):
        assert said in str(caught.value)
    images = data.FileDataset(tmp_path, config.ImageSettings(on_bad_image="skip"))
    assert images.captions == ["good"]
    lines = summary.summarize(images).lines("train", batch_size=4)
    assert lines[:2] == ["train: 1 images; 64x32: 1", "  1 captions quote no text"]
    assert "repeats images: 64x32 (1 for 4 places)" in "".join(lines)
    assert sum(line.startswith("  left out: ") for line in lines) == 3


def test_no_good_image_is_an_error_even_where_broken_ones_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"no image")
    table(tmp_path, {"file_name": "cut.png", "text": "a"})
    with pytest.raises(UserError, match=r"cut.png is not an image"):
        data.FileDataset(tmp_path, config.ImageSettings(on_bad_image="skip"))


def test_sources_of_a_recipe_and_their_repeats(tmp_path: Path) -> None:
    for name in ("one", "two", "held"):
        (tmp_path / name).mkdir()
        draw(tmp_path / name / "a.png")
        (tmp_path / name / "a.txt").write_text(name)
    places = [{"path": str(tmp_path / "one"), "repeats": 3}, str(tmp_path / "two")]
    settings = config.Data.model_validate({"train": places, "validation": str(tmp_path / "held")})
    train, validation = data.load(settings)
    assert train.captions == ["one", "two"]
    assert train.repeats == [3, 1]
    assert validation.captions == ["held"]
    batches = data.Batches(data.buckets(train), 2, 0, train.repeats)
    assert sorted(functools.reduce(operator.iadd, (batches[step] for step in range(batches.per_epoch)), [])) == [
        0,
        0,
        0,
        1,
    ]


def test_the_report_counts_changes(tmp_path: Path) -> None:
    for name, size in (("large", (200, 200)), ("small", (64, 64)), ("odd", (100, 64))):
        draw(tmp_path / f"{name}.png", *size)
        (tmp_path / f"{name}.txt").write_text(name)
    found = summary.summarize(data.FileDataset(tmp_path, config.ImageSettings(size="96x96")))
    assert found.changes == {"scaled down": 1, "cropped": 1, "smaller than data.size": 2}
    assert found.buckets == {"64x64": 1, "96x64": 1, "96x96": 1}


def test_the_report_names_what_is_there_twice(tmp_path: Path) -> None:
    """The same content in one set, and in both sets, under any name; drawn images have no content to compare."""
    for folder, seeds in (("train", (1, 2, 1)), ("kept", (5, 3)), ("held", (2, 3, 4))):
        (tmp_path / folder).mkdir()
        for number, seed in enumerate(seeds):
            draw(tmp_path / folder / f"{number}.png", seed=seed)
            (tmp_path / folder / f"{number}.txt").write_text("it says 'a'" if number else "it says nothing")
    places = [str(tmp_path / "train"), {"path": str(tmp_path / "kept"), "regularization": True}]
    both = data.load(config.Data.model_validate({"train": places, "validation": str(tmp_path / "held")}))
    found = summary.summarize(both[0])
    assert (found.images, found.regularization, found.same, found.unquoted) == (3, 2, 1, 1)
    told = summary.lines(both, 1)
    for line in ("  2 more are for regularization", "  1 equal another one", "  1 captions quote no text"):
        assert line in told
    assert [line for line in told if "over-fitting" in line] == [told[-1]]
    assert told[-1].startswith("  1 of them")
    posters = PosterDataset(2, 64, 64, seed=0, workers=1, split="train")
    assert not any("over-fitting" in line for line in summary.lines((posters, posters), 1))


def test_content_names_a_image(tmp_path: Path) -> None:
    """The same bytes in another place have the same name; another fit or other bytes another one."""
    keys: list[str] = []
    for folder, seed, reading in (("a", 1, {}), ("b", 1, {}), ("c", 2, {}), ("d", 1, {"size": "32x32"})):
        (tmp_path / folder).mkdir()
        draw(tmp_path / folder / "x.png", seed=seed)
        (tmp_path / folder / "x.txt").write_text("x")
        keys += data.FileDataset(tmp_path / folder, config.ImageSettings.model_validate(reading)).keys or []
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_rare_shapes_share_a_bucket(tmp_path: Path) -> None:
    """Of three near shapes one is taken, with the boxes and the source of each; the report says so."""
    for number, (width, height) in enumerate(((128, 96), (128, 100), (160, 128), (96, 96))):
        draw(tmp_path / f"{number}.png", width, height, number)
    boxes: list[dict[str, Any]] = [{"text_boxes": [[0, 0, 128, 96]]}, *[{"text_boxes": []}] * 3]
    table(tmp_path, *({"file_name": f"{number}.png", "text": "a", **boxes[number]} for number in range(4)))
    settings = config.Data.model_validate({"train": str(tmp_path), "validation": str(tmp_path)})
    apart, validation = data.load(settings)
    assert apart.sizes == validation.sizes == [(96, 128), (96, 128), (128, 160), (96, 96)]
    shared, validation = data.load(settings, batch_size=3)
    assert validation.sizes == apart.sizes
    assert shared.sizes == [(96, 128), (96, 128), (128, 160), (96, 96)], "too much of its pixels would be lost"
    settings = settings.model_copy(update={"max_crop": 0.5})
    shared, _ = data.load(settings, batch_size=3)
    assert shared.sizes == [(96, 128)] * 3 + [(96, 96)]
    assert shared.pixels([0, 1, 2], CPU).shape == (3, 3, 96, 128)
    mask = shared.text_mask([0, 1, 2], CPU)
    assert mask is not None
    assert mask.mean(dim=(1, 2, 3)).tolist() == [1, 0, 0]
    assert set(shared.keys or []) & set(apart.keys or []) == {apart.keys[0], apart.keys[1], apart.keys[3]}  # type: ignore[index]
    lines = summary.summarize(shared).lines("train", 3)
    assert "  1 in the shape of others, to fill a batch" in lines
    assert "  fewer than a batch of 3, so that a batch repeats images: 96x96 (1 for 3 places)" in lines
