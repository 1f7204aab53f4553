"""Images from folders, parquet files and webdataset archives, from any place on; layouts of public sets."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.features.store import ImageSource, Position
from glmkit.evaluation.reference_sets import presets
from glmkit.evaluation.reference_sets.sources import (
    FolderSource,
    ImageColumn,
    ParquetSource,
    WebDatasetSource,
    read_prompts,
    source_fingerprint,
)


def png(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (2, 2), (value, 0, 0)).save(data, "PNG")
    return data.getvalue()


def write_parquet(path: Path, columns: dict[str, list[Any]], row_group: int = 2) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def make_folder(root: Path) -> ImageSource:
    for name in ("b/2_0.png", "b/1_0.JPG", "a.webp", "notes.txt", "._a.webp", "__MACOSX/a.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(png(len(name)))
    return FolderSource(root, {"1": "one", "a": "letter"})


def make_parquet(root: Path) -> ImageSource:
    """Two files of several row groups; cells of all three kinds, and an empty one."""
    (root / "images").mkdir()
    (root / "images" / "9.png").write_bytes(png(9))
    first = [{"bytes": png(value), "path": f"{value}.png"} for value in range(5)]
    second = [{"bytes": None, "path": "images/9.png"}, None, {"bytes": png(8), "path": None}]
    tables: tuple[list[Any], ...] = (first, second)
    files = [
        write_parquet(
            root / f"{number}.parquet", {"image": cells, "text": [f"{number}-{n}" for n in range(len(cells))]}
        )
        for number, cells in enumerate(tables)
    ]
    return ParquetSource(tuple(files), (ImageColumn("image", "text"),))


def make_webdataset(root: Path) -> ImageSource:
    about = json.dumps({"caption": "an owl", "long": "a long text about an owl"}).encode()
    first = {"x/000.json": about, "x/000.png": png(1), "x/001.jpg": png(2), "x/001.txt": b"ein Fuchs\n"}
    second = {"y/000.png": png(3), "y/001.cls": b"4", "y/002.seg.png": png(5), "y/003.webp": png(6)}
    return WebDatasetSource((write_tar(root / "a.tar", first), write_tar(root / "b.tar", second)))


MAKERS = (make_folder, make_parquet, make_webdataset)


@pytest.mark.parametrize("make", MAKERS)
def test_a_source_continues_after_any_image(tmp_path: Path, make: Any) -> None:
    source = make(tmp_path)
    whole = list(source.images(None))
    assert whole == list(source.images(None))
    assert len({item.position for item in whole}) == len(whole)
    for number, item in enumerate(whole):
        assert list(source.images(item.position)) == whole[number + 1 :]


def test_a_folder_by_path_with_its_prompts(tmp_path: Path) -> None:
    found = [(item.key, item.prompt) for item in make_folder(tmp_path).images(None)]
    assert found == [("a.webp", "letter"), ("b/1_0.JPG", "one"), ("b/2_0.png", None)]


def test_parquet_cells_of_every_kind(tmp_path: Path) -> None:
    items = list(make_parquet(tmp_path).images(None))
    assert [item.prompt for item in items] == ["0-0", "0-1", "0-2", "0-3", "0-4", "1-0", "1-2"]
    assert [item.data for item in items] == [png(value) for value in (0, 1, 2, 3, 4, 9, 8)]
    assert items[3].key == "0.parquet#3 image"
    bare = write_parquet(tmp_path / "bare.parquet", {"image": [png(1), png(2)]})
    assert [item.data for item in ParquetSource((bare,), (ImageColumn("image"),)).images(None)] == [png(1), png(2)]


def test_earlier_row_groups_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_parquet(tmp_path)
    read: list[int] = []
    batches = pq.ParquetFile.iter_batches

    def spy(self: Any, *arguments: Any, **options: Any) -> Any:
        read.extend(options["row_groups"])
        return batches(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    list(source.images(Position(0, 3)))
    assert read == [1, 2, 0, 1]


def test_webdataset_samples(tmp_path: Path) -> None:
    source = make_webdataset(tmp_path)
    items = list(source.images(None))
    assert [item.key for item in items] == ["a.tar/x/000", "a.tar/x/001", "b.tar/y/000", "b.tar/y/003"]
    assert [item.prompt for item in items] == ["an owl", "ein Fuchs", None, None]
    longer = WebDatasetSource(source.files, "long")  # type: ignore[attr-defined]
    assert next(longer.images(None)).prompt == "a long text about an owl"


@pytest.mark.parametrize(
    ("name", "prompts", "expected"),
    [
        ("p.txt", "one\ntwo \n", {"1": "one", "2": "two"}),
        ("p.jsonl", '{"file_name": "x/a.png", "text": "A"}\n{"id": "b", "prompt": "B"}\n', {"a": "A", "b": "B"}),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, prompts: str, expected: dict[str, str]) -> None:
    (tmp_path / name).write_text(prompts)
    assert read_prompts(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda root: ParquetSource((root / "ok.parquet",), (ImageColumn("imgae"),)),
            "no column 'imgae'(.|\n)*--column image",
        ),
        (lambda root: ParquetSource((root / "bad",), (ImageColumn("image"),)), "bad is not a whole parquet file"),
        (lambda root: ParquetSource((root / "none",), (ImageColumn("image"),)), "none does not exist"),
        (lambda root: ParquetSource((root / "ok.parquet",), (ImageColumn("number"),)), "an image column holds int"),
        (lambda root: WebDatasetSource((root / "bad",)), "bad cannot be read"),
        (lambda root: WebDatasetSource((root / "cut.tar",)), "cut.tar cannot be read"),
        (lambda root: WebDatasetSource((root / "shorter.tar",)), "shorter.tar cannot be read(.|\n)*cut short"),
        (lambda root: WebDatasetSource((root / "json.tar",)), "json.tar cannot be read"),
        (lambda root: WebDatasetSource((root / "pipe.tar",)), "pipe.tar cannot be read(.|\n)*a pipe"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, source: Any, message: str) -> None:
    write_parquet(tmp_path / "ok.parquet", {"image": [png(1)], "number": [1]})
    (tmp_path / "bad").write_bytes(b"neither" * 100)
    whole = write_tar(tmp_path / "whole.tar", {"a.png": png(1) * 50, "b.png": png(2) * 50})
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:6000])
    (tmp_path / "shorter.tar").write_bytes(whole.read_bytes()[:5000])  # within the header of the second file
    write_tar(tmp_path / "json.tar", {"a.json": b"{", "a.png": png(1)})
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError, match=message):
        list(source(tmp_path).images(None))


@pytest.mark.parametrize(
    "record", ['{"prompt": "x"}', '{"file_name": 5.5, "prompt": "x"}', '{"id": [], "prompt": "x"}', '{"id": 1}']
)
def test_a_prompt_record_without_a_name_or_prompt(record: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(f'{{"id": 7, "text": "y"}}\n{record}')
    with pytest.raises(UserError, match="record 2: needs file_name"):
        read_prompts(tmp_path / "p.jsonl")


@pytest.mark.parametrize(("cell", "prompt"), [(["a", "b"], "a"), ([], None), (None, None)])
def test_a_prompt_cell_with_several_prompts_gives_the_first(cell: object, prompt: str | None, tmp_path: Path) -> None:
    table = pa.table({"image": [png(1)], "prompt": pa.array([cell], pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "set.parquet")
    source = ParquetSource((tmp_path / "set.parquet",), (ImageColumn("image", "prompt"),))
    assert [image.prompt for image in source.images(None)] == [prompt]


def test_what_cannot_be_read_is_not_hashed(tmp_path: Path) -> None:
    """64 GiB of it, without a block on the disk."""
    folder, table, archive = tmp_path / "images", tmp_path / "a.parquet", tmp_path / "a.tar"
    folder.mkdir()
    (folder / "a.PNG").touch()
    pq.write_table(pa.table({"image": [b"1"]}), table)
    with tarfile.open(archive, "w") as tar:
        tar.add(folder / "a.PNG", "a.png")
    source_fingerprint(archive)
    for path in (folder / "a.PNG", table, archive):
        os.truncate(path, 64 * 2**30)
    for path, message in ((folder, "too large"), (table, "not a whole parquet file"), (archive, "files end at byte")):
        with pytest.raises(UserError, match=message):
            source_fingerprint(path)


def test_the_identity_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    make_folder(tmp_path)
    before = source_fingerprint(tmp_path)
    assert before == source_fingerprint(tmp_path)
    (tmp_path / "c.png").write_bytes(b"one")
    added = source_fingerprint(tmp_path)
    (tmp_path / "c.png").write_bytes(b"two")
    assert len({before, added, source_fingerprint(tmp_path)}) == 3


def rapidata(root: Path) -> Path:
    """Pairs as in the published files: an image stands in several rows, on either side."""
    rows = [("a cat", "dalle-3", 1, "sd3", 2), ("a cat", "flux", 3, "dalle-3", 1), ("a dog", "sd3", 4, "midjourney", 5)]
    columns: dict[str, list[Any]] = {
        "prompt": [row[0] for row in rows],
        "model1": [row[1] for row in rows],
        "image1": [{"bytes": png(row[2]), "path": ""} for row in rows],
        "model2": [row[3] for row in rows],
        "image2": [{"bytes": png(row[4]), "path": ""} for row in rows],
        "votes_image1": [1, 2, 3],
    }
    return write_parquet(root / "train-0001.parquet", columns)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("dalle3", [("a cat", 1), ("a cat", 1)]), ("DALL-E 3", [("a cat", 1)] * 2), ("sd3", [("a cat", 2), ("a dog", 4)])],
)
def test_rapidata(tmp_path: Path, model: str, expected: list[tuple[str, int]]) -> None:
    source = presets.build("rapidata", model, {"parquet": [rapidata(tmp_path)]})
    assert [(item.prompt, item.data) for item in source.images(None)] == [(prompt, png(v)) for prompt, v in expected]
    for number, item in enumerate(items := list(source.images(None))):
        assert list(source.images(item.position)) == items[number + 1 :]


def test_a_model_that_the_files_lack_is_told_with_those_they_have(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "prompt": ["x"],
        "model1": ["flux"],
        "image1": [png(1)],
        "model2": ["imagen"],
        "image2": [png(2)],
    }
    file = write_parquet(tmp_path / "other.parquet", columns)
    with pytest.raises(UserError, match=r"no image of dalle3(.|\n)*flux, imagen"):
        list(presets.build("rapidata", "dalle3", {"parquet": [file]}).images(None))


def test_openai_dalle3(tmp_path: Path) -> None:
    (tmp_path / "coco" / "3").mkdir(parents=True)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "8k_coco.txt").write_text("a man\na boat\n")
    for number in (1, 2):
        (tmp_path / "coco" / "3" / f"{number}_0.png").write_bytes(png(number))
    items = list(presets.build("openai-dalle3", None, {"images": [tmp_path]}).images(None))
    assert [(item.prompt, item.data) for item in items] == [("a man", png(1)), ("a boat", png(2))]
    with pytest.raises(UserError, match="not a clone"):
        presets.build("openai-dalle3", None, {"images": [tmp_path / "coco"]})


def test_open_image_preferences(tmp_path: Path) -> None:
    kinds = [f"image_{kind}_{model}" for model in ("dev", "sd") for kind in ("quality", "simplified")]
    columns: dict[str, list[Any]] = {name: [{"bytes": png(n), "path": ""}] for n, name in enumerate(kinds)}
    columns |= {"quality_prompt": ["long"], "simplified_prompt": ["short"]}
    file = write_parquet(tmp_path / "cleaned.parquet", columns)
    for model, values in ((None, (2, 3)), ("flux.1-dev", (0, 1))):
        items = presets.build("open-image-preferences", model, {"parquet": [file]}).images(None)
        assert [(item.prompt, item.data) for item in items] == [("long", png(values[0])), ("short", png(values[1]))]


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("rapidat", None, "did you mean 'rapidata'"),
        ("rapidata", "sd33", "did you mean 'sd3'"),
        ("rapidata", "sd3", "reads --parquet"),
    ],
)
def test_presets_that_do_not_fit(name: str, model: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        presets.build(name, model, {"images": [Path("here")]})


def test_what_is_no_file_is_the_error_of_one_image(tmp_path: Path) -> None:
    """A pipe is not waited for, and a broken link is not passed over without a word."""
    (tmp_path / "a.png").write_bytes(png(1))
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("nowhere")
    (tmp_path / "d.png").touch()
    os.truncate(tmp_path / "d.png", 2**40)
    (tmp_path / "e.png").mkdir()
    found = {image.key: image.data for image in FolderSource(tmp_path).images(None)}
    assert list(found) == ["a.png", "b.png", "c.png", "d.png"]
    assert found["a.png"] == png(1)
    for name, said in (("b.png", b"cannot be read"), ("c.png", b"does not exist"), ("d.png", b"too large")):
        assert said in found[name]
