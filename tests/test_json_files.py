"""JSON files that people bring: what is read alike, and what an error says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.files import read_json, read_jsonl, read_text, write_jsonl


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


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ('{"prompt": "a"}\nA cat, no JSON\n', 2, "Expecting value at column 1: A cat, no JSON"),
        ('{"prompt": "a"},\n{"prompt": "b"}\n', 1, 'Extra data at column 16: {"prompt": "a"},'),
        ('\n{"prompt": "a"}\n[1]\n', 3, "[1]"),
    ],
)
def test_a_line_that_is_no_object_is_shown_with_what_to_type(text: str, line: int, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=rf"a.jsonl, line {line} is not (a|valid) JSON") as error:
        read_jsonl(tmp_path / "a.jsonl")
    assert error.value.found == found
    assert error.value.fix == f'mend or remove line {line}; a line is one object: {{"...": ...}}'


def test_the_place_of_a_fault_in_json_of_several_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1,\n  "b": two}\n')
    with pytest.raises(UserError, match='Expecting value at line 2, column 8: "b": two}'):
        read_json(tmp_path / "a.json")
