"""Splits and configurations of data sets: the one that the role needs is taken, or a choice is asked for."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from captioned_images import captions, parquet, read, with_text

from glmkit.errors import UserError

SPLIT_FILES = (
    "data/{}-00000-of-00001.parquet",
    "{}.parquet",
    "{}/0000.parquet",
    "default/{}/0000.parquet",
    "x_{}.parquet",
)


@pytest.mark.parametrize("form", SPLIT_FILES)
def test_splits_of_parquet_files(tmp_path: Path, form: str) -> None:
    for split in ("train", "test", "validation"):
        parquet(tmp_path / form.format(split), split)
    assert captions(read(tmp_path)) == ["train"]
    assert captions(read(tmp_path, "validation")) == ["validation"]
    found = read(f"{tmp_path}:test")
    assert captions(found) == ["test"]
    assert "test is taken; not taken: " in found.notes[0]
    with pytest.raises(UserError, match=r"no split dev2[\s\S]*test, train, validation"):
        read(f"{tmp_path}:dev2")


def test_splits_without_one_of_the_role_are_a_choice(tmp_path: Path) -> None:
    for split in ("train_sft-00000-of-00001-0af", "test-00000-of-00001"):
        parquet(tmp_path / "data" / f"{split}.parquet", split)
    with pytest.raises(UserError, match=r"more than one split[\s\S]*test, train_sft[\s\S]*:SPLIT"):
        read(tmp_path)
    assert captions(read(f"{tmp_path}:train_sft")) == ["train_sft-00000-of-00001-0af"]


def test_configurations_are_a_choice(tmp_path: Path) -> None:
    for name in ("en", "de"):
        parquet(tmp_path / name / "train-00000-of-00001.parquet", name)
    with pytest.raises(UserError, match=r"more than one configuration[\s\S]*de, en"):
        read(tmp_path)
    assert captions(read(f"{tmp_path / 'en'}:train")) == ["en"]


def test_shards_of_one_split_are_one(tmp_path: Path) -> None:
    for shard in range(2):
        parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", f"{shard}")
    parquet(tmp_path / "._train-00000-of-00002.parquet", "of macOS")
    parquet(tmp_path / ".cache" / "test.parquet", "of a download")
    found = read(tmp_path)
    assert captions(found) == ["0", "1"]


def test_splits_of_folders_of_images(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        with_text(tmp_path / split / f"{split}.png")
    assert captions(read(tmp_path)) == ["train"]
    assert captions(read(tmp_path, "validation")) == ["val"]
    assert captions(read(f"{tmp_path}:test")) == ["test"]


def test_splits_that_datasets_saved(tmp_path: Path) -> None:
    """The layout of `DatasetDict.save_to_disk`, with a file that `map` left."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "state.json").write_text("{}")
        for name, caption in (("data-00000-of-00001", split), ("cache-0af", "of a map")):
            table = pyarrow.table({"image": [b"png"], "caption": [caption]})
            with pyarrow.ipc.new_stream(tmp_path / split / f"{name}.arrow", table.schema) as stream:
                stream.write_table(table)
    found = read(tmp_path)
    assert captions(found) == ["train"]
    assert found.notes == (f"{tmp_path}: train is taken; not taken: test", "captions are those of column caption")
    assert captions(read(f"{tmp_path}:test")) == ["test"]
