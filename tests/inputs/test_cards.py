"""Cards of data sets: they tell splits and configurations that the names of files do not."""

from __future__ import annotations

import random
import re
from pathlib import Path, PurePosixPath

import pyarrow
import pyarrow.parquet
import pytest

from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.inputs import splits
from glmkit.inputs.datasets import Found, read_captioned_images

CARD = """---
license: cc0-1.0
configs:
- config_name: en
  data_files:
  - {split: train, path: [one.parquet, "more/*.parquet"]}
  - {split: validation, path: two.parquet}
- config_name: de
  data_dir: german
---
A data set.
"""


def parquet(folder: Path, *names: str) -> None:
    """Write tables of one image, whose caption is the name of the file."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"image": [b"png"], "text": [name]}), folder / f"{name}.parquet")


def read(where: Path | str) -> Found:
    return read_captioned_images(str(where), Columns())


def captions(found: Found) -> list[str]:
    return [caption for one in found.images for caption in one.captions]


def test_a_card_tells_splits_that_names_do_not(tmp_path: Path) -> None:
    parquet(tmp_path, "one", "two", "more/three", "german/four")
    (tmp_path / "README.md").write_bytes(CARD.replace("\n", "\r\n").encode("utf-8-sig") + b"\xff")
    with pytest.raises(UserError, match=r"more than one configuration[\s\S]*de, en"):
        read(tmp_path)
    found = read(f"{tmp_path}/en:train")
    assert captions(found) == ["one", "more/three"]
    assert found.notes == (f"{tmp_path}: en/train is taken; not taken: de/train, en/validation",)
    assert captions(read(f"{tmp_path}/en:validation")) == ["two"]
    assert captions(read(f"{tmp_path}/de:train")) == ["german/four"]
    with pytest.raises(UserError, match="has no split test"):
        read(f"{tmp_path}/en:test")


@pytest.mark.parametrize(
    ("declared", "taken"),
    [
        ("data_files: one.parquet", "one"),
        ('data_files: ["o*.parquet", "?wo.parquet"]', "one two"),
        ('data_files: "**/two.parquet"', "two"),
        ('data_files: [{split: train, path: "./one.parquet"}, {split: test, path: "two.*"}]', "one"),
        ("data_files: [{split: train, path: ../one.parquet}]", "one two"),
        ("data_files: {a: 1}", "one two"),
        ("data_files: [", "one two"),
        ("data_files: [1, null, {path: [3]}]", "one two"),
        ("[" * 5000, "one two"),
    ],
    ids=lambda value: value[:40],
)
def test_cards_of_any_form(declared: str, taken: str, tmp_path: Path) -> None:
    parquet(tmp_path, "one", "two")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- {declared}\n---\n")
    assert captions(read(tmp_path)) == taken.split()


def test_no_split_to_choose(tmp_path: Path) -> None:
    parquet(tmp_path, "one")
    with pytest.raises(UserError, match=rf"has no split test[\s\S]*data\.train={tmp_path}$"):
        read(f"{tmp_path}:test")


def test_globs_match_as_regular_expressions_of_them() -> None:
    rng = random.Random(0)
    in_regex = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    for _ in range(20_000):
        pattern = "".join(rng.choices(["a", "b", "/", "*", "?", "**", "**/"], k=rng.randint(0, 6)))
        path = "".join(rng.choices("ab/", k=rng.randint(0, 7)))
        expression = re.sub(r"\*\*/|\*\*|\*|\?", lambda part: in_regex[part[0]], pattern)
        assert splits._fits(path, pattern) == bool(re.fullmatch(expression, path)), (path, pattern)


@pytest.mark.timeout(60)
def test_cards_that_would_take_for_ever(tmp_path: Path) -> None:
    deep = PurePosixPath("/".join("a" * 100))
    card = f"---\nconfigs:\n- data_files: '{'**/*' * 30}x'\n---\n"
    assert splits.declared(card, {tmp_path: deep}) == {}
    files = ", ".join(["{path: a}"] * 3000)
    aliases = ", ".join(["{data_files: *files}"] * 3000)
    assert splits.declared(f"---\nfiles: &files [{files}]\nconfigs: [{aliases}]\n---\n", {tmp_path: deep}) == {}
