"""Files that exist are complete, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.files import (
    append_jsonl,
    atomic_path,
    read_json,
    read_jsonl,
    read_text,
    remove_leftovers,
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


def test_temporary_name_keeps_the_suffix_and_the_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "image.png") as temporary:
        temporary.write_bytes(b"1")
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        assert not (tmp_path / "image.png").exists()
    assert names(tmp_path) == ["image.png"]


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


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n[1, 2]\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 3"):
        read_jsonl(path)
    path.write_text('{"n": 1}\n{"n": \n')
    with pytest.raises(UserError, match="line 2"):
        read_jsonl(path)


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_missing_unreadable_and_undecodable_files_are_user_errors(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "bad.json").write_bytes(b'"\xff\xfe"')
    with pytest.raises(UserError, match=r"bad.json is not"):
        read(tmp_path / "bad.json")


def test_line_separators_inside_a_text_do_not_split_rows(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\u0085c\nd"}, {"text": "e"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in (".result.12.tmp.json", ".adapter.7.tmp", ".note.tmp.txt", "mine.12.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".decoder.123.tmp").mkdir()
    (tmp_path / ".decoder.123.tmp" / "half").touch()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "none")
    assert names(tmp_path) == [".note.tmp.txt", "mine.12.tmp"]


@pytest.mark.parametrize(
    "text", ['[{"n": 1}, {"n": 2}]', '[\n {"n": 1},\n {"n": 2}\n]\n', '\ufeff{"n": 1}\r\n\ufeff{"n": 2}\r']
)
def test_a_list_and_marks_are_read_as_lines_are(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8", newline="")
    assert read_jsonl(tmp_path / "rows.jsonl") == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("read", [read_json, read_jsonl, read_text])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link", "zero byte"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, read: Callable[[Path], Any], kind: str) -> None:
    path = tmp_path / "rows.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nothing")
    else:
        path = tmp_path / "a\0b"
    with pytest.raises(UserError, match="does not exist" if kind == "link" else "cannot be read"):
        read(path)
