"""Tables as spreadsheets and pandas write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkit.errors import UserError
from glmkit.inputs.prompts import read_prompts
from glmkit.inputs.records import read_csv


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nid;prompt\na;red, blue\n",
        'SEP=,\r\nid,prompt\r\na,"red, blue"\r\n',
        "sep=\t\nid\tprompt\na\tred, blue\n",
        "id;prompt;;\na;red, blue;;\n;;;\n",
        ',id,prompt\n0,a,"red, blue"\n',
    ],
    ids=["Excel's separator", "a comma", "a tab", "empty columns", "the index of pandas"],
)
def test_what_spreadsheets_add_is_left_out(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8-sig"))
    assert read_csv(tmp_path / "a.csv") == [{"id": "a", "prompt": "red, blue"}]


def test_text_under_no_name_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,\nA sign, red\n")
    with pytest.raises(UserError, match="record 1: unknown key ''"):
        read_prompts(tmp_path / "a.csv")


def test_the_number_of_a_line_counts_that_of_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sep=,\nid,prompt\na,A sign, red\n")
    with pytest.raises(UserError, match="line 3 does not fit its columns"):
        read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.xlsx", "a.txt", "a.csv"])
def test_a_workbook_is_to_be_saved_as_text(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(UserError, match=r"is not text\n  found: an archive.*\n  try: .*CSV UTF-8"):
        read_prompts(tmp_path / name)
