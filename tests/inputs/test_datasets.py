"""Images with captions in every layout that people have: splits, names of columns and files, and what lies beside."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
import pytest
from captioned_images import captions, image, parquet, read, with_text

from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.inputs import datasets

COLUMNS = Columns()


@pytest.mark.parametrize("name", ["owner/some.name-1", "owner/name/configuration"])
def test_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[tuple[str, str]] = []
    parquet(tmp_path / "a.parquet", "a")

    def fetch(location: str, role: str) -> tuple[list[Path], list[str]]:
        asked.append((location, role))
        return [tmp_path / "a.parquet"], ["a note"]

    monkeypatch.setattr(datasets, "fetch", fetch)
    found = read(f"{name}:train")
    assert asked == [(f"{name}:train", "train")]
    assert found.notes == ("a note",)


@pytest.mark.parametrize("folder", ["C:/images", r"D:\a/b", "C:/x:train", "none", "a/b"])
def test_a_folder_that_is_gone_is_no_dataset_of_the_hub(folder: str) -> None:
    """Drives of Windows have a colon, as the split of a data set has."""
    with pytest.raises(UserError, match="does not exist") as caught:
        read(folder)
    assert ("a/b:train" in str(caught.value)) == (folder == "a/b")


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


def table_of(separator: str, encoding: str) -> Callable[[Path, list[dict[str, Any]]], None]:
    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)

    return write


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("metadata.jsonl", jsonl),
        ("metadata.json", lambda path, rows: path.write_text(json.dumps(rows, indent=1))),
        ("metadata.csv", table_of(",", "utf-8")),
        ("metadata.csv", table_of(";", "utf-8-sig")),
        ("metadata.tsv", table_of("\t", "utf-16")),
    ],
)
def test_tables_of_any_kind(tmp_path: Path, name: str, write: Callable[[Path, list[dict[str, Any]]], None]) -> None:
    """In the folder of their images, and named themselves."""
    image(tmp_path / "a b.png")
    write(tmp_path / name, [{"file_name": "a b.png", "text": "Käse, Brot; Wein\nund “花”"}])
    for where in (tmp_path, tmp_path / name):
        assert captions(read(where)) == ["Käse, Brot; Wein\nund “花”"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", [lambda text: text, lambda text: {"caption": text}])
def test_captions_by_the_name_of_their_image(tmp_path: Path, indent: int | None, form: Callable[[str], Any]) -> None:
    for name in ("a.png", "b.png"):
        image(tmp_path / name)
    table = {"a.png": form("a red sign"), "b.png": form("a blue one")}
    (tmp_path / "metadata.json").write_text(json.dumps(table, indent=indent))
    assert captions(read(tmp_path)) == ["a red sign", "a blue one"]


def test_captions_by_names_as_the_scripts_of_kohya_write_them(tmp_path: Path) -> None:
    """Without suffixes; an image that is gone is the error of its record."""
    image(tmp_path / "a.1.png"), image(tmp_path / "b.png")
    table = tmp_path / "meta_cap.json"
    table.write_text(json.dumps({"a.1": {"caption": "a"}, "b": {"caption": "b", "tags": "x"}}))
    assert captions(read(table)) == ["a", "b"]
    table.write_text(json.dumps({"/gone/a.png": {"caption": "a"}, "b.png": {"caption": "b"}}))
    gone, good = read(table).images
    assert "/gone/a.png does not exist" in str(gone.error)
    assert good.captions == ("b",)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "none.png"])
def test_a_record_with_names_of_nothing_has_no_columns(tmp_path: Path, name: str) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "metadata.json").write_text(json.dumps({name: "a red sign"}))
    with pytest.raises(UserError, match="no column file_name"):
        read(tmp_path)


def test_a_text_with_the_separator_and_no_quotes(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a red, blue poster\n")
    with pytest.raises(UserError, match=r"line 2 does not fit its columns[\s\S]*3 cells, 2 columns"):
        read(tmp_path)


@pytest.mark.parametrize("key", ["caption", "captions", "prompt", "description"])
@pytest.mark.parametrize("file", ["file_name", "file", "image", "path"])
def test_other_names_of_columns(tmp_path: Path, key: str, file: str) -> None:
    image(tmp_path / "a.png")
    jsonl(tmp_path / "metadata.jsonl", [{file: "a.png", key: "a", "width": 32}])
    found = read(tmp_path)
    assert captions(found) == ["a"]
    assert found.notes == (f"captions are those of column {key}",)


def test_columns_with_capitals(tmp_path: Path) -> None:
    """As people head the columns of a sheet; a name without capitals, and one that a recipe says, come first."""
    good, bad = image(tmp_path / "a.png"), image(tmp_path / "b.png")
    table = tmp_path / "pairs.csv"
    table.write_text("Prompt;Chosen;REJECTED\r\na fox;a.png;b.png\r\n", encoding="utf-8-sig")
    (found,) = read(table).images
    assert (found.error, found.captions, found.image, found.rejected) == (None, ("a fox",), good, bad)
    table.write_text("Image,Text,text,Condition_Image\na.png,upper,lower,b.png\n")
    (found,) = read(table).images
    assert (found.captions, found.condition_images) == (("lower",), (bad,))
    assert captions(read(table, caption="Text")) == ["upper"]
    pyarrow.parquet.write_table(
        pyarrow.table({"Prompt": ["a fox"], "Image": [b"good"], "Rejected": [b"bad"]}), tmp_path / "pairs.parquet"
    )
    (found,) = read(tmp_path / "pairs.parquet").images
    assert [one.read() for one in (found.image, found.rejected)] == [b"good", b"bad"]  # type: ignore[union-attr]


def test_columns_that_leave_a_choice(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "caption": "a", "prompt": "b"}])
    with pytest.raises(UserError, match=r"no column text[\s\S]*data.columns.caption=caption"):
        read(tmp_path)
    assert captions(read(tmp_path, caption="prompt")) == ["b"]


@pytest.mark.parametrize("value", [["one", "two", "one", " ", None], ("one", "two")])
def test_several_captions(tmp_path: Path, value: Any) -> None:
    parquet(tmp_path / "a.parquet", list(value))
    assert captions(read(tmp_path)) == ["one", "two"]


@pytest.mark.parametrize(
    "value",
    [None, "", " \n", [], [None], [""], "a \ud83d", "a\0b", "a" * 20_000, ["ok", "a \ud83d"], 5, [5], {"a": 1}, False],
)
def test_captions_that_are_none(tmp_path: Path, value: Any) -> None:
    """One bad record is that record's error, and the others are there."""
    image(tmp_path / "a.png"), image(tmp_path / "b.png")
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": value}, {"file_name": "b.png", "text": "b"}])
    bad, good = read(tmp_path).images
    assert "the caption of" in str(bad.error)
    assert "a.png" in str(bad.error)
    assert (good.error, good.captions) == (None, ("b",))


@pytest.mark.parametrize("value", [None, 5, "", ["a.png"], "none.png", "x" * 300, "a\0.png"])
def test_files_that_are_none(tmp_path: Path, value: Any) -> None:
    image(tmp_path / "b.png")
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": value, "text": "a"}, {"file_name": "b.png", "text": "b"}])
    bad, good = read(tmp_path).images
    assert bad.error is not None
    assert good.error is None


def test_texts_of_the_glyph_encoder(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": "sagt „Hallo“", "texts": ["Hallo"]}])
    (one,) = read(tmp_path).images
    assert one.texts == ("Hallo",)
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": "sagt „Hallo“", "texts": "Hallo"}])
    assert "no list of texts" in str(read(tmp_path).images[0].error)


NAME = "Käse Ü.png"


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "named", [unicodedata.normalize("NFC", NAME), unicodedata.normalize("NFD", NAME), "käse ü.PNG"]
)
@pytest.mark.parametrize("folder", ["", "Übung/"])
def test_names_however_they_are_composed(
    tmp_path: Path, on_disk: Literal["NFC", "NFD"], named: str, folder: str
) -> None:
    image(tmp_path / unicodedata.normalize(on_disk, folder + NAME))
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": unicodedata.normalize("NFC", folder) + named, "text": "a"}])
    assert captions(read(tmp_path)) == ["a"]


def test_names_of_windows_and_names_that_differ_in_capitals_alone(tmp_path: Path) -> None:
    image(tmp_path / "sub" / "a.png"), image(tmp_path / "sub" / "A.png")
    jsonl(
        tmp_path / "metadata.jsonl", [{"file_name": "sub\\a.png", "text": "a"}, {"file_name": "sub/A.png", "text": "A"}]
    )
    assert [one.image for one in read(tmp_path).images] == [tmp_path / "sub" / "a.png", tmp_path / "sub" / "A.png"]


def test_text_files_however_they_are_composed(tmp_path: Path) -> None:
    image(tmp_path / unicodedata.normalize("NFD", NAME))
    (tmp_path / unicodedata.normalize("NFC", NAME)).with_suffix(".caption").write_text(
        "\ufeffa\r\nb\r\n", encoding="utf-8"
    )
    assert captions(read(tmp_path)) == ["a\nb"]


def test_what_systems_and_programs_leave(tmp_path: Path) -> None:
    with_text(tmp_path / "a.png")
    for name in ("._a.png", "._a.txt", ".DS_Store", "Thumbs.db", "desktop.ini", "~$a.txt"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    (tmp_path / "__MACOSX").mkdir()
    for name in ("log.txt", "train.log", "README.md", "notes.docx"):
        (tmp_path / name).write_text("lines of tee")
    found = read(tmp_path)
    assert captions(found) == ["a"]
    passed, unknown, alone = found.notes
    assert unknown == f"neither images nor captions in {tmp_path}: notes.docx, train.log"
    assert ".DS_Store, ._a.png, ._a.txt, Thumbs.db, __MACOSX and 2 more" in passed
    assert alone.endswith("without an image of their name: log.txt")
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": "a"}])
    listed = read(tmp_path)
    assert captions(listed) == ["a"]
    assert unknown in listed.notes


def test_two_captions_of_one_image(tmp_path: Path) -> None:
    with_text(tmp_path / "a.png")
    (tmp_path / "a.caption").write_text("a")
    assert captions(read(tmp_path)) == ["a"]
    (tmp_path / "a.caption").write_text("another")
    assert "two captions" in str(read(tmp_path).images[0].error)


@pytest.mark.parametrize("table", ["captions.json", "../all.jsonl"])
def test_a_table_beside_images_is_pointed_at(table: str, tmp_path: Path) -> None:
    image(tmp_path / "set" / "images" / "a.png")
    path = tmp_path / "set" / "images" / table
    path.write_text('[{"file_name": "a.png", "text": "a"}]')
    (error,) = [one.error for one in read(tmp_path / "set").images]
    assert f"data.train={path.resolve()}" in str(error)
    (tmp_path / "set" / "images" / "a.json").write_text('{"caption": "a"}')
    (error,) = [one.error for one in read(tmp_path / "set").images]
    assert "a.json" not in str(error)


def test_folders_in_a_folder(tmp_path: Path) -> None:
    with_text(tmp_path / "10_style" / "a.png")
    with_text(tmp_path / "plain" / "deeper" / "b.png")
    (tmp_path / "empty").mkdir()
    found = read(tmp_path)
    assert captions(found) == ["a", "b"]
    assert [one.repeats for one in found.images] == [10, 1]
    assert "10 times per epoch" in found.notes[0]
    assert [one.repeats for one in read(tmp_path, "validation").images] == [1, 1]
    with_text(tmp_path / "c.png")
    found = read(tmp_path)
    assert captions(found) == ["c"]
    assert "10_style" in found.notes[0]


def test_images_that_are_not_read_are_told_however_deep_they_lie(tmp_path: Path) -> None:
    with_text(tmp_path / "a.png")
    with_text(tmp_path / "sub" / "deeper" / "b.png")
    assert any(note.endswith("since it holds images itself: sub") for note in read(tmp_path).notes)
    image(tmp_path / "sub" / "@eaDir" / "b.png")
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": "a"}])
    found = read(tmp_path)
    assert captions(found) == ["a"]
    unnamed = tmp_path / "sub" / "deeper" / "b.png"
    assert found.notes[-1] == f"images that {tmp_path / 'metadata.jsonl'} does not name: {unnamed}"
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": f"{name}.png", "text": "a"} for name in ("a", "sub/deeper/b")])
    assert not any("does not name" in note for note in read(tmp_path).notes)


def test_photos_that_cannot_be_read_are_not_passed_over(tmp_path: Path) -> None:
    with_text(tmp_path / "a.png")
    with_text(tmp_path / "b.HEIC")
    (tmp_path / "a.heic").write_bytes(b"")
    assert [one.image for one in read(tmp_path).images] == [tmp_path / "a.png", tmp_path / "b.HEIC"]


def test_a_folder_of_kohya_without_captions_names_what_it_shows(tmp_path: Path) -> None:
    image(tmp_path / "10_sks dog" / "a.png"), image(tmp_path / "10_sks dog" / "b.png")
    found = read(tmp_path)
    assert captions(found) == ["sks dog", "sks dog"]
    assert "its name, sks dog, is that of every image" in found.notes[0]
    image(tmp_path / "10_sks dog" / "old" / "c.png")
    assert any(note.endswith("since it holds images itself: old") for note in read(tmp_path).notes)
    with_text(tmp_path / "10_sks dog" / "b.png")
    forgotten, good = read(tmp_path).images
    assert "has no caption" in str(forgotten.error)
    assert good.captions == ("b",)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images in"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("pictures.zip", "is no data set[\\s\\S]*unpack an archive"),
        ("dataset.toml", "is no data set[\\s\\S]*image_dir"),
        ("shards", "no images in[\\s\\S]*0.tar[\\s\\S]*unpack archives"),
        ("x" * 300, "cannot be read"),
        ("a\0b", "does not exist"),
        ("none/*.parquet", "no images in"),
    ],
)
def test_locations_that_are_none(tmp_path: Path, where: str, said: str) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("pictures.zip", "dataset.toml", "shards/0.tar"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UserError, match=said):
        read(tmp_path / where)


def test_a_missing_validation_folder_is_told_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist[\s\S]*data.validation=0.1"):
        read(tmp_path / "none", "validation")


@pytest.mark.parametrize("name", ["a.png", "a.txt", "metadata.jsonl", "a.parquet"])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    with_text(tmp_path / "a.png")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    if name in ("a.png", "a.txt"):
        (one,) = read(tmp_path).images
        assert (one.error is None) == (name == "a.png"), "the image itself is opened later"
        return
    with pytest.raises(UserError, match="a pipe"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_name,text,text\na.png,x,y\n", "two columns text"),
        ("a.png,a red poster\n", "holds no records[\\s\\S]*first line of file_name,text"),
        ("", "holds no records"),
        ('file_name,text\na.png,"unclosed\n', "line 2 is not CSV"),
        ('file_name,text\na.png,"OPEN" sign\n', "line 2 is not CSV"),
    ],
)
def test_broken_tables(tmp_path: Path, text: str, said: str) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read(tmp_path)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pyarrow.table([[b"png"], ["x"], ["y"]], names=["image", "text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column text"):
        read(tmp_path)


def test_links_to_where_a_folder_is(tmp_path: Path) -> None:
    with_text(tmp_path / "sub" / "a.png")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "sub" / "again").symlink_to(tmp_path / "sub")
    assert captions(read(tmp_path)) == ["a"]


def test_pairs_in_folders_name_both_images(tmp_path: Path) -> None:
    """By the columns of `datasets`, whose image folders take `*_file_name`, or by the plain ones."""
    for chosen, rejected in (
        ("chosen_file_name", "rejected_file_name"),
        ("chosen", "rejected"),
        ("file_name", "rejected"),
    ):
        folder = tmp_path / chosen / rejected
        good, bad = image(folder / "good/1.png"), image(folder / "bad/1.png")
        record = {"prompt": "a fox", chosen: "good/1.png", rejected: "bad/1.png", "texts": ["FOX"]}
        (folder / "metadata.jsonl").write_text(json.dumps(record))
        (found,) = read(folder).images
        assert (found.error, found.captions, found.texts) == (None, ("a fox",), ("FOX",))
        assert (found.image, found.rejected) == (good, bad)


def test_pairs_in_tables(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": ["a fox"], "chosen": [b"good"], "rejected": [b"bad"]}), tmp_path / "pairs.parquet"
    )
    (found,) = read(tmp_path / "pairs.parquet").images
    assert [one.read() for one in (found.image, found.rejected)] == [b"good", b"bad"]  # type: ignore[union-attr]


def test_pick_a_pic_names_the_better_image_by_a_label(tmp_path: Path) -> None:
    """Its ties, and pairs that nobody voted on, are left out and counted."""
    labels: list[float] = [1, 0, 0.5, 1]
    table = {
        "caption": [f"prompt {number}" for number in range(4)],
        "jpg_0": [b"first"] * 4,
        "jpg_1": [b"second"] * 4,
        "label_0": labels,
        "label_1": [1 - label for label in labels],
        "has_label": [True, True, True, False],
        "image_0_uid": ["x"] * 4,
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "pick.parquet")
    found = read(tmp_path / "pick.parquet")
    contents = [tuple(one.read() for one in (pair.image, pair.rejected)) for pair in found.images]  # type: ignore[union-attr]
    assert contents == [(b"first", b"second"), (b"second", b"first")]
    assert captions(found) == ["prompt 0", "prompt 1"]
    assert any(note.endswith("neither image is preferred, left out: 2") for note in found.notes)


def test_labels_of_pick_a_pic_that_say_nothing(tmp_path: Path) -> None:
    """One that is no preference is the error of its pair; a table of ties alone says so."""
    table = {"caption": ["a", "b", "c"], "jpg_0": [b"first"] * 3, "jpg_1": [b"second"] * 3}
    for labels in ([1, 2, -1], [0.5, None, float("nan")]):
        pyarrow.parquet.write_table(pyarrow.table({**table, "label_0": labels}), tmp_path / f"{labels[0]}.parquet")
    errors = [str(pair.error) for pair in read(tmp_path / "1.parquet").images]
    assert ["is no preference" in error for error in errors] == [False, True, True]
    with pytest.raises(UserError, match=r"no images in[\s\S]*neither image is preferred, left out: 3"):
        read(tmp_path / "0.5.parquet")


def test_a_pair_of_one_image_is_none(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    jsonl(tmp_path / "pairs.jsonl", [{"prompt": "a fox", "chosen": "1.png", "rejected": "1.png"}])
    assert "are one" in str(read(tmp_path / "pairs.jsonl").images[0].error)


def test_a_record_names_one_rejected_image(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    record = {"file_name": "1.png", "text": "a fox", "rejected": ["a.png", "b.png"]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(record))
    (found,) = read(tmp_path).images
    assert "several rejected images" in str(found.error)
