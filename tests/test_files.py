"""Files that exist are complete, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.files import (
    append_jsonl,
    atomic_folder,
    atomic_path,
    cache_folder,
    exists,
    json_list,
    read_json,
    read_jsonl,
    shareable_path,
    write_json,
    write_jsonl,
)

FULL = Path("/dev/full")  # every write to it fails as on a full disk


needs_full_disk = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_json_round_trip_keeps_unicode_readable(tmp_path: Path) -> None:
    value = {"text": "花好月圆 “ok”", "n": [1, 2.5, None]}
    write_json(tmp_path / "new" / "a.json", value)
    assert read_json(tmp_path / "new" / "a.json") == value
    assert "花好月圆" in (tmp_path / "new" / "a.json").read_text(encoding="utf-8")
    assert names(tmp_path / "new") == ["a.json"]


@needs_full_disk
def test_a_full_disk_inside_a_folder_names_the_folder(tmp_path: Path) -> None:
    """Its temporary name is hidden, and gone when somebody reads it."""
    with (
        pytest.raises(UserError, match=f"no space left while writing {tmp_path / 'b' / 'in' / 'c'}\n  try:   free"),
        atomic_folder(tmp_path / "b") as folder,
        atomic_path(folder / "in" / "c"),
        FULL.open("wb", buffering=0) as full,
    ):
        full.write(b"c")
    assert names(tmp_path) == []


def test_temporary_name_keeps_the_suffix_and_the_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "image.png") as temporary:
        temporary.write_bytes(b"1")
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        assert not (tmp_path / "image.png").exists()
    assert names(tmp_path) == ["image.png"]


def test_the_disk_holds_a_file_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        flushed.append((os.fstat(descriptor).st_ino, sorted(names(tmp_path))[-1]))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_json(tmp_path / "a.json", 1)
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "in").mkdir()
        (folder / "in" / "c").write_text("c")
        (folder / "in" / "link").symlink_to(tmp_path / "a.json")
    with atomic_path(tmp_path / "d", flush=False) as temporary:
        temporary.write_text("d")
    written = [tmp_path / "a.json", tmp_path / "b" / "in" / "c"]
    assert [inode for inode, _ in flushed] == [path.stat().st_ino for path in written]
    assert all(name.startswith(".") or name == "a.json" for _, name in flushed)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_disk_that_cannot_flush(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some have no fsync, which is no error; an error of the disk is one."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="put") if number == errno.EIO else nullcontext():
        write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").exists() == (number == errno.EINVAL)


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_half()
    assert read_json(path) == {"old": 1}
    assert names(tmp_path) == ["a.json"]


@contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """Let no file become larger, as FAT32 does from 4 GiB on, and `ulimit -f`."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_torch(path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(50_000)}, path)  # a RuntimeError that does not say why


def save_safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(50_000)}, path)


def copy_folder(path: Path) -> None:
    (path.parent / "source").mkdir(exist_ok=True)
    (path.parent / "source" / "large").write_bytes(bytes(200_000))
    shutil.copytree(path.parent / "source", path, dirs_exist_ok=path.is_dir())  # shutil.Error, whose errno is None


@pytest.mark.parametrize(
    ("write", "context"),
    [
        (lambda path: path.write_bytes(bytes(200_000)), atomic_path),
        (save_torch, atomic_path),
        (save_safetensors, atomic_path),
        (copy_folder, atomic_folder),
        (lambda path: save_torch(path / "state.pt"), atomic_folder),
    ],
)
def test_a_file_that_becomes_too_large(tmp_path: Path, write: Any, context: Any) -> None:
    def write_all() -> None:
        with context(tmp_path / "a") as temporary:
            write(temporary)

    with (
        largest_file(1 << 16),
        pytest.raises(UserError, match=r"cannot write .*a\n  found: File too large\n  try: .*4 GiB"),
    ):
        write_all()
    assert not [name for name in names(tmp_path) if name != "source"]


@pytest.mark.parametrize(
    ("path", "found", "fix"),
    [
        ("a" * 300, "File name too long", "a shorter name"),
        ("b" * 300 + "/a.json", "File name too long", "a shorter name"),
        ("file/a.json", "(Not a directory|File exists)", "can be written"),
        ("folder", "Is a directory", "can be written"),
        ("loop/a.json", "(symbolic links|File exists)", "folder"),
        ("/proc/glmkit/a.json", "No such file", "can be written"),
        ("a\0b", "NUL", "another name"),
        ("\ud800.json", "surrogates", "another name"),
        ("a.\ud800", "surrogates", "another name"),
        ("\ud800/a.json", "surrogates", "another name"),
    ],
)
@pytest.mark.parametrize("write", [write_json, append_jsonl])
def test_places_that_cannot_be_written(tmp_path: Path, path: str, found: str, fix: str, write: Any) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    with pytest.raises(UserError) as caught:
        write(tmp_path / path, {"a": 1})
    assert re.search(found, str(caught.value.found))
    assert fix in str(caught.value.fix)
    assert names(tmp_path) == before


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 250 + ".json", "花" * 83 + ".json"):
        write_json(tmp_path / name, 1)
    assert len(names(tmp_path)) == 2


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out" / "a"):
        (tmp_path / "source").read_bytes()


def test_the_cache_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="GLMKIT_CACHE=FOLDER"):
        write_json(cache_folder() / "hashes" / "a.json", {})


@pytest.mark.parametrize("items", [[], [{"text": "a\nb", "list": [1, ["花", {}]], "half": "\ud83d"}], [1, "[]", []]])
def test_a_list_written_item_by_item(tmp_path: Path, items: list[Any]) -> None:
    about = {"title": "[]", "values": [], "nested": {"of": [1.5, None]}}
    with json_list(tmp_path / "list.json", about, "items") as add:
        for item in items:
            add(item)
            assert names(tmp_path) != ["list.json"], "complete when it has its name"
    write_json(tmp_path / "whole.json", {**about, "items": items})
    assert (tmp_path / "list.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_half_a_surrogate_pair_is_json(tmp_path: Path) -> None:
    """As a prompt from JavaScript that was cut inside an emoji, in the record that says what is wrong with it."""
    value = {"prompt": "blue \ud83d 花"}
    write_json(tmp_path / "a.json", value)
    write_jsonl(tmp_path / "a.jsonl", [value])
    append_jsonl(tmp_path / "a.jsonl", value)
    assert read_json(tmp_path / "a.json") == value
    assert read_jsonl(tmp_path / "a.jsonl") == [value, value]
    assert "花" in (tmp_path / "a.json").read_text(encoding="utf-8")


@needs_full_disk
def test_a_full_disk_is_a_user_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"

    def fill_the_disk() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            FULL.write_bytes(b"the other half")

    with pytest.raises(UserError, match=r"no space left while writing .*a.bin"):
        fill_the_disk()
    assert names(tmp_path) == []
    with pytest.raises(UserError, match="no space left"):
        append_jsonl(FULL, {"a": 1})


def test_other_system_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk on fire") as caught, atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, "disk on fire")
    assert caught.value.errno == errno.EIO


def test_a_file_in_place_of_a_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / "taken" / "a.json", {})


def killed_while_writing(code: str) -> None:
    """Run code in a child that prints a line when it is half-way and then waits; kill it there."""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


def test_a_kill_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    killed_while_writing(
        "import time\n"
        "from glmkit.files import atomic_path\n"
        f"with atomic_path({str(path)!r}) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
    )
    assert read_json(path) == {"old": 1}
    write_json(path, {"new": 2})
    assert read_json(path) == {"new": 2}
    assert len(names(tmp_path)) == 2  # in this process, the folder was clean


def test_a_kill_between_appended_lines_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    killed_while_writing(
        "import time\n"
        "from glmkit.files import append_jsonl\n"
        f"append_jsonl({str(path)!r}, {{'n': 1}})\n"
        f"append_jsonl({str(path)!r}, {{'n': 2}})\n"
        "print('half', flush=True)\n"
        "time.sleep(60)\n"
    )
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}]


def test_appending_after_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": "\xe8\x8a')  # cut inside a character
    append_jsonl(path, {"n": 3})
    assert read_jsonl(path, partial=True) == [{"n": 1}, {"n": 3}]
    append_jsonl(path, {"n": 4})
    assert read_jsonl(path, partial=True) == [{"n": 1}, {"n": 3}, {"n": 4}]


def test_what_exists(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "broken").symlink_to("nothing")
    (tmp_path / "itself").symlink_to("itself")
    there = [name for name in (*names(tmp_path), "none", "none/a", "file/a", "a\0b") if exists(tmp_path / name)]
    assert there == ["file", "folder", "link"]
    with pytest.raises(OSError, match="File name too long"):
        exists(tmp_path / ("a" * 300))


@pytest.mark.parametrize(
    ("path", "shareable"),
    [
        ("/home/alice/photo.png", "photo.png"),
        ("/home/alice/runs/mine/adapter", "mine/adapter"),
        ("/home/alice/runs/mine/adapter/decoder:0.5", "mine/adapter/decoder:0.5"),
        ("/adapter", "adapter"),
        ("/home/alice/adapter:0.8", "alice/adapter:0.8"),
        ("~/models/big", "big"),
        (r"C:\Users\alice\photo.png", "photo.png"),
        ("zai-org/GLM-Image", "zai-org/GLM-Image"),
        ("photos/a.png", "photos/a.png"),
        ("nano", "nano"),
    ],
)
def test_paths_that_are_shared_name_no_folder_of_this_machine(path: str, shareable: str) -> None:
    assert shareable_path(path) == shareable


@pytest.mark.skipif(os.name != "posix", reason="devices as POSIX has them")
@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_a_device_is_never_replaced(write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root can rename a file over /dev/null, for every program of the machine; nobody gets so far as to try."""
    link = tmp_path / "link"
    link.symlink_to(os.devnull)
    monkeypatch.setattr("glmkit.files.temporary_sibling", lambda _: tmp_path / "temporary")
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("it must not be renamed"))
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("it must not be renamed"))
    for path in (Path(os.devnull), link):
        with pytest.raises(UserError, match=f"cannot write {path}"), write(path):
            pass
    assert link.is_symlink()
    assert Path(os.devnull).is_char_device()
