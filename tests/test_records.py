"""Records go to JSON and back unchanged, and refuse what they do not know."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from glmkit.errors import UserError
from glmkit.files import read_jsonl, write_jsonl
from glmkit.records import Generation, Prompt, Record, Request, Summary

RECORDS = [
    Prompt(id="a", prompt="a shop with '开门'", texts=("开门", "OPEN"), split="zh", language="zh"),
    Request(id="a_1", prompt="p", seed=3, height=320, width=256, condition_images=("one.png", "two.png"), guidance=2.5),
    Generation(id="a_1", prompt_id="a", prompt="p", seed=3, file="images/a_1.png", seconds=1.25),
    Generation(id="a_2", prompt_id="a", prompt="p", seed=4, error="out of memory"),
    Generation(id="a_3", prompt_id="a", prompt="p", seed=5, file="images/a_3.png", seconds=1.5, peak_memory_gib=0.5),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_round_trip_through_a_file(tmp_path: Path, record: Record) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [record.to_dict()])
    (row,) = read_jsonl(tmp_path / "rows.jsonl")
    assert type(record).from_dict(row) == record


def test_records_are_frozen_and_usable_as_keys() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECORDS[0].id = "b"  # type: ignore[attr-defined]
    assert len(set(RECORDS)) == len(RECORDS)


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"(?s)Prompt has no field 'text'.*texts"):
        Prompt.from_dict({"id": "a", "prompt": "p", "text": ["b"]})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UserError, match=r"(?s)incomplete Prompt.*'prompt'"):
        Prompt.from_dict({"id": "a"})


def test_a_summary_is_a_table() -> None:
    """One line per split and metric, and one for all splits together."""
    unscored = {"value": None, "low": None, "high": None}
    splits = {
        "short": {
            "n_scored": 3,
            "n_total": 4,
            "n_prompts": 2,
            "scores": {"ned": {"value": 0.5, "low": 0.1, "high": 0.9}},
        },
        "zh": {"n_scored": 0, "n_total": 1, "n_prompts": 0, "scores": {"ned": unscored}},
    }
    summary = Summary("suite", "nano", (), 3, 5, 2, splits["short"]["scores"], splits, {}, "", {})  # type: ignore[arg-type]
    table = summary.to_pandas()
    assert list(table.columns) == ["split", "metric", "value", "low", "high", "n"]
    assert list(table["split"]) == ["short", "zh", "all"]
    assert list(table["n"]) == [2, 0, 2]
    assert table["value"][0] == 0.5
    assert table["value"].isna()[1]
    assert table["high"][2] == 0.9
    one = dataclasses.replace(summary, splits={"short": splits["short"]})
    assert list(one.to_pandas()["split"]) == ["short"]
