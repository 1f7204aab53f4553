"""A folder of generated images: files of others stay, records of other prompts, too; nothing is left of the work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.work_queue import WorkItem, claim_items
from glmkit.files import append_jsonl, read_jsonl
from glmkit.generation import batch
from glmkit.generation.batch import GeneratedImages, IsMissing, Report, Result, generate_many
from glmkit.generation.images import (
    condition_image_digests,
    image_shortcuts,
    image_text,
    is_image_of,
    is_ours,
    save_png,
)
from glmkit.records import Request


class Plain:
    """Gives every request an image of one colour, without a model."""

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.during = during

    def generate_missing(
        self, requests: Sequence[Request], is_missing: IsMissing, report: Report, work: Path, group: ProcessGroup
    ) -> None:
        items = [WorkItem(f"images-{request.id}", request) for request in requests]
        for request in claim_items(items, work, group, is_missing):
            (work / f"{ord(request.id[0]):024x}.npz").touch()
            self.during()
            report(Result(request, 0.5, Image.new("RGB", (8, 8)), image_text(request, "plain", (), "weights")))

    def note(self) -> str:
        return ""


def generate(
    ids: str, folder: Path, during: Callable[[], object] = lambda: None, group: ProcessGroup | None = None
) -> GeneratedImages:
    return generate_many(
        [Request(name, f"prompt {name}", 0, 32, 32) for name in ids],
        folder,
        lambda: Plain(during),
        is_complete=lambda path, request: is_image_of(path, request, "weights"),
        may_replace=is_ours,
        group=group,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_records_of_other_prompts_stay(tmp_path: Path) -> None:
    generate("ab", tmp_path)
    generate("c", tmp_path)
    generate("b", tmp_path)
    lines = read_jsonl(tmp_path / "images.jsonl")
    assert sorted(line["id"] for line in lines) == ["a", "b", "c"]
    assert all(line["seconds"] == 0.5 for line in lines)
    generate("abcd", tmp_path)
    assert [line["id"] for line in read_jsonl(tmp_path / "images.jsonl")] == ["a", "b", "c", "d"]
    assert names(tmp_path) == ["a.png", "b.png", "c.png", "d.png", "images.jsonl"]


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    "put",
    [
        lambda path: Image.new("RGB", (9, 9)).save(path, "PNG"),
        lambda path: Image.new("RGB", (9, 9)).save(path, "JPEG"),
        lambda path: path.write_bytes(b"not an image"),
        lambda path: path.symlink_to("nowhere"),
        os.mkfifo,
        folder,
    ],
    ids=["png", "jpeg", "garbage", "link", "pipe", "folder"],
)
def test_an_image_that_glmkit_did_not_make_stays(tmp_path: Path, put: Callable[[Path], object]) -> None:
    put(tmp_path / "b.png")
    before = os.lstat(tmp_path / "b.png")
    images = generate("abc", tmp_path)
    assert (images.n_generated, images.n_skipped, images.n_failed) == (2, 0, 1)
    assert "b.png is there already and was not made by glmkit" in str(images.records[1].error)
    after = os.lstat(tmp_path / "b.png")
    assert (before.st_ino, before.st_mtime_ns, before.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size)
    assert generate("ac", tmp_path).n_skipped == 2


def test_an_image_of_too_many_pixels_to_open_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (1000, 10)).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    images = generate("ab", tmp_path)
    assert (images.n_generated, images.n_failed) == (1, 1)
    assert "b.png is there already" in str(images.records[1].error)
    assert image_shortcuts(tmp_path / "b.png") == {}


def test_an_image_of_glmkit_is_replaced_also_if_it_was_cut(tmp_path: Path) -> None:
    generate("abc", tmp_path)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: whole.index(b"IDAT") + 6])
    (tmp_path / "b.png").write_bytes(b"")
    assert generate("abc", tmp_path).n_generated == 2
    assert (tmp_path / "a.png").read_bytes() == whole


def test_files_of_the_user_in_the_folder_of_the_work_stay(tmp_path: Path) -> None:
    (tmp_path / ".work").mkdir()
    for name in ("notes.txt", "data.npz", "poetry.lock"):
        (tmp_path / ".work" / name).write_text("mine")
    generate("a", tmp_path)
    assert names(tmp_path / ".work") == ["data.npz", "notes.txt", "poetry.lock"]


OTHER = """
import sys
from pathlib import Path
from generation.test_image_folder import generate
def wait():
    print("working", flush=True)
    sys.stdin.readline()
images = generate("xy", Path(sys.argv[1]), wait)
assert images.n_generated == 2, images
"""


def test_two_processes_with_other_prompts_in_one_folder(tmp_path: Path) -> None:
    """The one that ends first leaves what the other needs; the last one leaves nothing."""
    path = os.pathsep.join(str(Path(__file__).parents[count]) for count in (1, 2))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], text=True, env={**os.environ, "PYTHONPATH": path}, **pipes
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "working\n"
    generate("ab", tmp_path)
    assert f"{ord('x'):024x}.npz" in names(tmp_path / ".work")
    other.communicate("\n\n")
    assert other.returncode == 0
    assert names(tmp_path) == ["a.png", "b.png", "images.jsonl", "x.png", "y.png"]
    lines = read_jsonl(tmp_path / "images.jsonl")
    assert sorted((line["id"], line["seconds"]) for line in lines) == [(name, 0.5) for name in "abxy"]


def test_an_id_has_one_line_whoever_ends_between_an_image_and_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process finds all images and orders their records, then the second one adds its last record."""

    def save_then_let_the_first_end(*given: Any) -> None:
        save_png(*given)
        if given[0].name == "b.png":
            monkeypatch.setattr(batch, "save_png", save_png)
            assert generate("ab", tmp_path, group=ProcessGroup(0, 2)).n_failed == 0

    monkeypatch.setattr(batch, "save_png", save_then_let_the_first_end)
    generate("ab", tmp_path, group=ProcessGroup(1, 2))
    lines = [(line["id"], line["seconds"]) for line in read_jsonl(tmp_path / "images.jsonl")]
    assert lines == [("a", 0.5), ("b", 0.5)]


@pytest.mark.parametrize("line", [{"file": "a.png"}, {"id": 5}, {"id": None}, {"id": ["a"]}])
def test_a_record_of_anything_stays(tmp_path: Path, line: dict[str, object]) -> None:
    append_jsonl(tmp_path / "images.jsonl", line)
    generate("a", tmp_path)
    assert line in read_jsonl(tmp_path / "images.jsonl")


def test_a_finished_folder_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate("ab", tmp_path)
    for function in ("write_jsonl", "append_jsonl", "exclusive", "participating"):
        monkeypatch.delattr(f"glmkit.generation.batch.{function}")
    assert generate("ab", tmp_path).n_skipped == 2
    assert generate("b", tmp_path).n_skipped == 1


def test_an_image_that_nothing_can_read_has_no_digest(tmp_path: Path) -> None:
    """To hash its 64 GiB would take minutes, before its request fails."""
    (tmp_path / "large.png").touch()
    os.truncate(tmp_path / "large.png", 64 * 2**30)  # without a block on the disk
    (tmp_path / "small.png").write_bytes(b"1")
    images = (str(tmp_path / "large.png"), str(tmp_path / "small.png"), str(tmp_path / "none.png"))
    assert len(condition_image_digests(Request("a", "p", condition_images=images))) == 1
