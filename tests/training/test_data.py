"""Training images: what a folder may hold, what is refused, what the numbers are, and which images make one step."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glmkit import config
from glmkit.errors import UserError
from glmkit.training import data
from glmkit.training.data import summary

CPU = torch.device("cpu")


def make_image(path: Path, width: int = 64, height: int = 32, seed: int = 0) -> np.ndarray:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(path)
    return levels


def table(folder: Path, *rows: dict[str, object]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def test_a_folder_with_a_table(tmp_path: Path) -> None:
    """Captions go with their files, not with the order of names."""
    second, first = make_image(tmp_path / "a.png", seed=1), make_image(tmp_path / "b.png", seed=2)
    table(tmp_path, {"file_name": "b.png", "text": "first"}, {"file_name": "a.png", "text": "second"})
    found = data.FileDataset(tmp_path)
    assert found.captions == ["first", "second"]
    assert found.sizes == [(32, 64)] * 2
    pixels = found.pixels([1, 0], CPU)
    assert pixels.shape == (2, 3, 32, 64)
    assert pixels.dtype == torch.float32
    for row, levels in zip(pixels, (second, first), strict=True):
        torch.testing.assert_close(row, torch.from_numpy(levels).permute(2, 0, 1) / 255 * 2 - 1, atol=1e-6, rtol=0)
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert found.text_mask([0], CPU) is None


def test_a_folder_with_text_files(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    make_image(tmp_path / "b.JPG")
    (tmp_path / "a.txt").write_text("ein Käse\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("another")
    (tmp_path / "notes.md").write_text("no caption")
    assert data.FileDataset(tmp_path).captions == ["ein Käse", "another"]


def test_sides_are_cropped_around_the_centre(tmp_path: Path) -> None:
    levels = make_image(tmp_path / "a.png", width=101, height=70)
    table(tmp_path, {"file_name": "a.png", "text": "a"})
    pixels = data.FileDataset(tmp_path).pixels([0], CPU)[0]
    expected = torch.from_numpy(levels[3:67, 2:98].copy()).permute(2, 0, 1) / 255 * 2 - 1
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    """The report counts them; white on transparent would teach an empty page, and is refused."""
    for name, level in (("black", 0), ("white", 255)):
        image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        image.paste((level, level, level, 255), (0, 0, 16, 32))
        image.save(tmp_path / f"{name}.png")
    table(tmp_path, {"file_name": "black.png", "text": "a"}, {"file_name": "white.png", "text": "b"})
    with pytest.raises(UserError, match=r"white.png is transparent, and blank on white"):
        data.FileDataset(tmp_path)
    images = data.FileDataset(tmp_path, config.ImageSettings(on_bad_image="skip"))
    assert images.pixels([0], CPU).mean(dim=(0, 1, 2)).tolist() == [-1] * 16 + [1] * 16
    lines = summary.summarize(images).lines("train", 1)
    assert "  1 with transparent parts, laid on white" in lines
    assert "blank on white; try: " in lines[-1]  # the parts of a message stay apart in one line


def bad_folder(name: str, folder: Path) -> str:
    """Make one kind of broken folder; returns what the error must say."""
    folder.mkdir()
    if name != "no text file":
        table(folder, {"file_name": "a.png", "text": "a"})
    make_image(folder / "a.png")
    match name:
        case "caption without image":
            (folder / "a.png").unlink()
            return "the caption of a.png has no image"
        case "image without caption":
            make_image(folder / "b.png")
            return f"image {folder / 'b.png'} has no caption"
        case "no text file":
            return "write a.txt"
        case "text file that is not text":
            (folder / "metadata.jsonl").unlink()
            (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
            return "a.txt is not UTF-16 text"
        case "corrupt":
            whole = (folder / "a.png").read_bytes()
            (folder / "a.png").write_bytes(whole[: len(whole) // 2])
            return f"image {folder / 'a.png'} cannot be read"
        case "not an image":
            (folder / "a.png").write_bytes(b"no image")
            return f"{folder / 'a.png'} is not an image"
        case "empty caption":
            table(folder, {"file_name": "a.png", "text": " \n"})
            return f"the caption of {folder / 'a.png'} is empty"
        case "too small":
            make_image(folder / "a.png", width=64, height=31)
            return "at least 32x32"
        case "too long":
            make_image(folder / "a.png", width=320, height=64)
            return "more than 4 times as long as wide"
        case "wrong columns":
            table(folder, {"photograph": "a.png", "text": "a"})
            return "has no column file_name"
        case "empty":
            table(folder)
            (folder / "a.png").unlink()
            return "metadata.jsonl holds no records"
    raise AssertionError(name)


BAD = [
    *("caption without image", "image without caption", "no text file", "corrupt"),
    *(
        "text file that is not text",
        "not an image",
        "empty caption",
        "too small",
        "too long",
        "wrong columns",
        "empty",
    ),
]


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(name: str, tmp_path: Path) -> None:
    said = bad_folder(name, tmp_path / "images")
    with pytest.raises(UserError) as caught:
        data.FileDataset(tmp_path / "images")
    assert said in str(caught.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        data.FileDataset(tmp_path / "none")


SIZES = [(64, 64)] * 7 + [(32, 64)] * 4 + [(64, 64)] * 2


def test_an_epoch_shows_every_image_and_mixes_no_sizes() -> None:
    batches = data.Batches(SIZES, 4, seed=0)
    assert batches.per_epoch == 3 + 1
    for epoch in range(3):
        steps = [batches[epoch * 4 + step] for step in range(4)]
        assert {len({SIZES[index] for index in batch}) for batch in steps} == {1}
        assert all(len(batch) == 4 for batch in steps)
        seen = Counter(index for batch in steps for index in batch)
        assert set(seen) == set(range(len(SIZES)))
        assert sum(seen.values()) == len(SIZES) + 3
        assert max(seen.values()) <= 2
    even = data.Batches([(64, 64)] * 12, 4, seed=0)
    assert sorted(index for step in range(3) for index in even[step]) == list(range(12))


def test_the_order_is_a_function_of_seed_and_step() -> None:
    one, other = data.Batches(SIZES, 4, seed=5), data.Batches(SIZES, 4, seed=5)
    forward = [one[step] for step in range(20)]
    assert [other[step] for step in reversed(range(20))] == forward[::-1]
    assert forward[:4] != forward[4:8], "every epoch has its own order"
    assert [data.Batches(SIZES, 4, seed=6)[step] for step in range(20)] != forward


def test_a_batch_larger_than_the_set_repeats_it() -> None:
    assert Counter(data.Batches([(32, 32)] * 3, 6, seed=0)[0]) == {0: 2, 1: 2, 2: 2}


def test_batches_of_equal_pixels() -> None:
    sizes = [(64, 64)] * 40 + [(32, 64)] * 40 + [(128, 128)] * 8
    batches = data.Batches(sizes, 24, seed=0, equal_pixels=True, multiple=2)
    counts = {sizes[batch[0]]: len(batch) for batch in (batches[step] for step in range(batches.per_epoch))}
    assert counts == {(32, 64): 24, (64, 64): 12, (128, 128): 2}
    assert {len(data.Batches(sizes, 24, seed=0)[step]) for step in range(5)} == {24}


def test_groups() -> None:
    sizes = [(32, 32), (64, 64), (32, 32), (32, 32), (64, 64)]
    assert data.first_batches(sizes, 2, limit=4) == [[0, 2], [1, 4]], "every size has its share"
    assert data.first_batches(sizes, 2, limit=9) == [[0, 2], [3], [1, 4]]
    assert data.first_batches([*sizes, (96, 32)], 2, limit=2) == [[0], [1], [5]], "and at least one image"


def test_of_several_captions_each_epoch_shows_one(tmp_path: Path) -> None:
    """Chosen by seed and epoch alone; where there is one, the order of images is what it was."""
    for name in "ab":
        make_image(tmp_path / f"{name}.png")
    table(tmp_path, {"file_name": "a.png", "text": [f"a{n}" for n in range(4)]}, {"file_name": "b.png", "text": "b"})
    found = data.FileDataset(tmp_path, repeats=2)
    assert found.captions == ["a0", "a1", "a2", "a3", "b"]
    assert found.repeats == [2, 0, 0, 0, 2]
    assert found.same_image == {1: 0, 2: 0, 3: 0}
    assert [kind is None for kind in data.buckets(found)] == [False, True, True, True, False]
    assert None not in data.kinds_with_caption(found)

    def batches() -> data.Batches:
        return data.Batches(data.buckets(found), 2, 5, found.repeats, same_image=found.same_image)

    plain, chosen = data.Batches(data.buckets(found), 2, 5, found.repeats), batches()
    steps = [chosen[step] for step in range(40)]
    assert [[found.same_image.get(index, index) for index in step] for step in steps] == [plain[n] for n in range(40)]
    assert {index for step in steps for index in step} == set(range(5))
    again = batches()
    assert [again[step] for step in (25, 7)] == [steps[25], steps[7]]
    lines = summary.summarize(found).lines("train", 1)
    assert "  5 captions, of which an epoch shows one per image" in lines


def test_a_share_is_kept_back_by_content(tmp_path: Path) -> None:
    """Equal images stay together, whatever their names; those that come later move nothing."""
    for number in range(20):
        make_image(tmp_path / f"{number}.png", seed=number % 19)
    rows: list[dict[str, object]] = [{"file_name": f"{n}.png", "text": f"{n}"} for n in range(20)]
    table(tmp_path, *rows)
    train, kept = data.load(config.Data.model_validate({"train": str(tmp_path), "validation": 0.1}))
    assert len(train.captions) + len(kept.captions) == 20
    assert len(set(kept.keys or [])) == 2
    assert not {*(train.keys or [])} & {*(kept.keys or [])}
    assert kept.repeats == [1] * len(kept.captions)
    names = {f"{n + 100}": n for n in reversed(range(20))}
    for new, old in names.items():
        (tmp_path / f"{old}.png").rename(tmp_path / f"{new}.png")
    table(tmp_path, *({**rows[old], "file_name": f"{new}.png"} for new, old in names.items()))
    _, again = data.load(config.Data.model_validate({"train": str(tmp_path), "validation": 0.1}))
    assert sorted(again.captions) == sorted(kept.captions)


def test_too_few_images_to_keep_some_back(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    table(tmp_path, {"file_name": "a.png", "text": "a"})
    with pytest.raises(UserError, match="is too little to keep some back"):
        data.load(config.Data.model_validate({"train": str(tmp_path), "validation": 0.5}))


def test_no_validation_is_said(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    table(tmp_path, {"file_name": "a.png", "text": "a"})
    both = data.load(config.Data.model_validate({"train": str(tmp_path)}))
    assert both[0] is both[1]
    assert summary.lines(both, 1)[-1].startswith("validation: none, so that no one can see over-fitting")


def test_given_texts_are_read_in_place_of_quotes(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    make_image(tmp_path / "b.png")
    table(
        tmp_path,
        {"file_name": "a.png", "text": "sagt „Hallo“", "texts": ["Hallo"]},
        {"file_name": "b.png", "text": "sagt „Welt“ 'a'"},
    )
    found = data.FileDataset(tmp_path)
    assert data.glyph_texts(found) == [["Hallo"], ["a"]]
    lines = summary.summarize(found).lines("train", 1)
    assert '  not read as texts: „Welt“; write "Welt"' in lines
    assert "  1 captions have quotes that are not read as they look" in lines
    assert "  texts that images show, the first ones: Hallo | a" in lines


def test_the_first_texts_are_shown_wherever_they_are(tmp_path: Path) -> None:
    captions = [*["a photo"] * 6, 'says "A" and "B"', *[f'says "{number}"' for number in range(5)]]
    for number in range(len(captions)):
        make_image(tmp_path / f"{number}.png")
    records: list[dict[str, object]] = [
        {"file_name": f"{number}.png", "text": text} for number, text in enumerate(captions)
    ]
    table(tmp_path, *records)
    assert summary.summarize(data.FileDataset(tmp_path)).texts == ("A", "B", "0", "1", "2")


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_boxes_are_checked_before_anything_is_computed(tmp_path: Path, on_bad_image: str) -> None:
    make_image(tmp_path / "a.png")
    make_image(tmp_path / "b.png")
    table(
        tmp_path,
        {"file_name": "a.png", "text": "a", "text_boxes": [[12, 9, 12, 11]]},
        {"file_name": "b.png", "text": "b", "text_boxes": [[4.2, 4, 4.9, 8]]},
    )
    settings = config.ImageSettings.model_validate({"on_bad_image": on_bad_image})
    if on_bad_image == "error":
        with pytest.raises(UserError, match=r"a.png has no area[\s\S]*image 64x32"):
            data.FileDataset(tmp_path, settings)
        return
    mask = data.FileDataset(tmp_path, settings).text_mask([0], CPU)
    assert mask is not None
    assert mask.sum() > 0


def test_a_share_of_several_sets(tmp_path: Path) -> None:
    """A set of one image is learnt whole; regularization images are not kept back."""
    for folder, count in (("many", 12), ("one", 1), ("regularization", 8)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            make_image(tmp_path / folder / f"{number}.png", seed=number + 100 * count)
            (tmp_path / folder / f"{number}.txt").write_text(folder)
    places = [str(tmp_path / "many"), str(tmp_path / "one")]
    regularization = {"path": str(tmp_path / "regularization"), "regularization": True}
    for share, kept in ((0.25, 3), (0.01, 1), (0.99, 11)):
        settings = config.Data.model_validate({"train": [*places, regularization], "validation": share})
        train, validation = data.load(settings)
        assert validation.captions == ["many"] * kept
        assert sum(train.repeats) == 13 - kept
        assert len(train.regularization) == 8
