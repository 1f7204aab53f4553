"""What a report calls its runs, and run folders that somebody has edited."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.files import read_json, read_jsonl, write_json, write_jsonl
from glmkit.records import Distance, Prompt
from glmkit.reporting import load
from glmkit.reporting.compare import compare
from glmkit.reporting.distances import distance_tables
from glmkit.reporting.leaderboard import leaderboard
from glmkit.reporting.provenance import recorded_facts, setup_facts
from glmkit.reporting.tables import image_records

MakeRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("runs/poster_lora/adapter", "poster_lora"),
        ("runs/poster_lora/adapter:0.8", "poster_lora:0.8"),
        ("runs/poster_lora/adapter/decoder:0.5", "poster_lora decoder:0.5"),
        ("adapter/decoder", "decoder"),
        ("zai-org/GLM-Image", "GLM-Image"),
        ("adapters/mine:0.5", "mine:0.5"),
        (r"C:\runs\poster_lora\adapter:0.8", "poster_lora:0.8"),
        (r"runs\poster_lora\adapter\decoder", "poster_lora decoder"),
        ("C:/models/mine", "mine"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert load.short_name(name) == short


@pytest.mark.parametrize(
    ("name", "adapters", "shown"),
    [
        ("", [], "nano"),
        ("", ["mine/adapter:0.8"], "nano + mine:0.8"),
        ("", ["mine/adapter/autoregressive", "mine/adapter/decoder:0.5"], "folder"),
        ("with <adapter>", ["mine/adapter"], "with <adapter>"),
    ],
)
def test_the_name_of_a_run(
    name: str, adapters: list[str], shown: str, make_run: MakeRun, prompts: list[Prompt]
) -> None:
    folder = make_run("folder", [(prompt, prompt.texts) for prompt in prompts], adapters=adapters)
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "name": name})
    assert [run.name for run in load.load_runs([folder])] == [shown]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """`value` with `new` at that place; MISSING takes the place away."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    if copy[path[0]] is MISSING:
        del copy[path[0]]
    return copy


MISSING = object()
ALIGNMENT = {
    "metric": "clip_cosine",
    "model": "clip",
    "weights_sha256": "0" * 64,
    "prompts": 2,
    "truncated_prompts": 0,
    "clipscore": {"value": 0.5, "low": 0.1, "high": 0.9},
}
DISTANCE = Distance("sd3", "fid", 1.0, 0.5, 4, 2, 4, 4, True, 2, 1, {"run": {"PNG": 4}}, "a distance", {"mode": "x"})


@pytest.mark.parametrize("file", ["summary.json", "manifest.json", "images.jsonl", "scores.jsonl"])
def test_a_record_of_another_shape_is_one_clear_error(file: str, make_run: MakeRun, prompts: list[Prompt]) -> None:
    """Whatever stands in whatever place of a run folder: a report of it, or an error that names the file."""
    folder = make_run("run", [(prompts[0], prompts[0].texts), (prompts[5], prompts[5].texts)])
    more = {"alignment": ALIGNMENT, "distances": [DISTANCE.to_dict()]}
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), **more})
    first, *rest = (folder / file).read_text(encoding="utf-8").splitlines() if file.endswith("l") else [None]
    value = read_json(folder / file) if first is None else json.loads(first)
    refused = []
    for number, path in enumerate(places(value)):
        for new in (None, 5, float("nan"), 10**400, "\ud800", ["x"], {"x": 1}, MISSING)[number % 4 :: 4]:
            if path or new is not MISSING:
                (folder / file).write_text("\n".join([json.dumps(changed(value, path, new)), *rest]))
                try:
                    report(folder)
                except UserError as error:
                    refused.append(error.what)
    assert len(refused) > 10
    assert [what for what in refused if not what.startswith((str(folder), "the runs have no"))] == []


def report(folder: Path) -> None:
    runs = load.load_runs([folder])
    comparison = compare(runs)
    board = leaderboard(runs, comparison)
    facts = setup_facts(runs), recorded_facts(runs), distance_tables(runs)
    json.dumps(([*image_records(runs, comparison)], [one.estimates for one in board.standings]), allow_nan=False)
    assert all(facts)


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../other/secret.png", "images/../../secret.png", "a\0b", "link.png"]
)
@pytest.mark.parametrize("key", ["file", "prompt_id"])
def test_a_report_embeds_no_file_from_outside_the_run_folder(
    key: str, path: str, tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]
) -> None:
    folder = make_run("run", [(prompts[0], prompts[0].texts)])
    (tmp_path / "secret.png").write_bytes((folder / "images/0.png").read_bytes())
    (folder / "references").mkdir()
    for place in (folder, folder / "references"):
        (place / "link.png").symlink_to(tmp_path / "secret.png")
    value = f"../{path}" if key == "prompt_id" and ".." in path else path
    for file in ("images.jsonl", "scores.jsonl"):
        records = [{**record, key: value} if key in record else record for record in read_jsonl(folder / file)]
        write_jsonl(folder / file, records)
    with pytest.raises(UserError, match=rf"images.jsonl, line 1: {key} leads out of the run folder"):
        load.load_runs([folder])


def test_runs_without_a_common_metric_cannot_be_compared(make_run: MakeRun, prompts: list[Prompt]) -> None:
    folders = [make_run(name, [(prompts[0], prompts[0].texts)]) for name in ("one", "two")]
    summary = read_json(folders[1] / "summary.json")
    write_json(folders[1] / "summary.json", {**summary, "metrics": {"mine": summary["metrics"]["ned"]}})
    scores = [{**score, "counts": {"mine": [1, 1]}} for score in read_jsonl(folders[1] / "scores.jsonl")]
    write_jsonl(folders[1] / "scores.jsonl", scores)
    with pytest.raises(UserError, match=r"(?s)no metric in common.*mine"):
        compare(load.load_runs(folders))


def test_names_of_a_report(make_run: MakeRun, prompts: list[Prompt]) -> None:
    folders = [make_run(name, [(prompts[0], prompts[0].texts)]) for name in ("a", "b")]
    assert [run.name for run in load.load_runs(folders, ["base", "lora"])] == ["base", "lora"]
    for names, message in ((["base"], "2 runs need 2 names"), (["x", "x"], "one name"), (["x", " "], "has none")):
        with pytest.raises(UserError, match=message):
            load.load_runs(folders, names)


def test_equal_texts_and_counts_are_held_once(make_run: MakeRun, prompts: list[Prompt]) -> None:
    """Of several runs; 1, 1.0 and true are equal, and stay what they are."""
    folders = [make_run(name, [(prompts[0], ["OPEN"]), (prompts[1], ["OPEN"])]) for name in "ab"]
    counts: dict[str, list[Any]] = {
        "word_accuracy": [1, 2],
        "ned": [1.0, 2],
        "cer": [True, 2],
        "word_precision": [1, 2],
    }
    for folder in folders:
        scores = [{**score, "counts": counts} for score in read_jsonl(folder / "scores.jsonl")]
        write_jsonl(folder / "scores.jsonl", scores)
    one, other = load.load_runs(folders)
    first, second, third = (*one.scores, other.scores[0])
    assert first.id is one.images[0].id is other.images[0].id is third.id
    assert first.split is third.split
    assert first.expected is third.expected
    assert first.recognized_lines is second.recognized_lines is third.recognized_lines
    assert [*map(id, first.counts)] == [*map(id, second.counts)]
    assert [*map(id, first.counts.values())] == [*map(id, second.counts.values())]
    assert {name: [*map(type, count)] for name, count in first.counts.items()} == {
        name: [*map(type, count)] for name, count in counts.items()
    }
    assert first.counts["word_accuracy"] is first.counts["word_precision"]
