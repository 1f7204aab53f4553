"""Records go to JSON and back unchanged, and refuse what they do not know."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from glmkit.errors import UserError
from glmkit.files import read_jsonl, write_jsonl
from glmkit.records import Generation, Prompt, Record, Request

RECORDS = [
    Prompt(id="a", prompt="a shop with '开门'", texts=("开门", "OPEN"), split="zh", language="zh"),
    Request(id="a_1", prompt="p", seed=3, height=320, width=256, sources=("one.png", "two.png"), guidance=2.5),
    Generation(id="a_1", prompt_id="a", prompt="p", seed=3, file="images/a_1.png", seconds=1.25),
    Generation(id="a_2", prompt_id="a", prompt="p", seed=4, error="out of memory"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_round_trip_through_a_file(tmp_path: Path, record: Record) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [record.to_row()])
    (row,) = read_jsonl(tmp_path / "rows.jsonl")
    assert type(record).from_row(row) == record


def test_records_are_frozen_and_usable_as_keys() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECORDS[0].id = "b"  # type: ignore[attr-defined, misc]
    assert len(set(RECORDS)) == len(RECORDS)


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="(?s)Prompt has no field 'text'.*texts"):
        Prompt.from_row({"id": "a", "prompt": "p", "text": ["b"]})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UserError, match="(?s)incomplete Prompt.*'prompt'"):
        Prompt.from_row({"id": "a"})
